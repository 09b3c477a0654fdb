/** The frame: one view, as a chart and as the table of its newest rows, while they change; and its text. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { Problem } from "./api";
import { Chart } from "./chart";
import { type View, useKnown } from "./known";
import { type Axes, type Lines, axes, labelOf, lines, pick } from "./series";
import { type Row, type Rows, follow } from "./stream";
import { cell, count, isNumeric, time } from "./words";

/** Rows of the table. */
const SHOWN = 40;
/** Values that are kept of a running aggregate. */
const TRACE = 600;

export function Shown({ name, ask }: { name: string; ask: (sql: string) => void }) {
  const known = useKnown();
  const view = known.views?.find((other) => other.name === name);
  const columns = JSON.stringify(view?.columns ?? []);
  const [rows, setRows] = useState<Rows | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const canAsk = !known.needsToken;
  useEffect(() => {
    if (!view || !canAsk) return;
    const shown = (rows: Rows) => {
      setRows(rows);
      setProblem(null);
    };
    return follow(view, shown, setProblem);
  }, [name, columns, canAsk]);
  const drawn = useMemo(() => axes(view?.columns ?? []), [columns]);
  const [value, setValue] = useState<string | null>(null);
  if (!view) return null;
  const number = value ?? drawn.numbers[0];
  return (
    <article class="card" data-shown={name}>
      <div class="bar">
        <h3>{name}</h3>
        <span class="badge" title="how the rows come">
          {rows?.live ? "live" : "every 2 s"}
        </span>
        <span class="grow" />
        {drawn.numbers.length > 0 && (
          <label>
            <span class="dim">chart of </span>
            <select value={number} onChange={(event) => setValue(event.currentTarget.value)}>
              {drawn.numbers.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
      </div>
      {problem && !rows && <p class="empty">{problem.message}</p>}
      {rows?.rows.length === 0 && <p class="empty">No rows yet. They come with the first commit that has records for this view.</p>}
      {rows && rows.rows.length > 0 && number && <Drawn view={view} axes={drawn} rows={rows} value={number} />}
      {rows && rows.rows.length > 0 && <Table view={view} rows={rows} />}
      <ViewText name={name} ask={ask} />
    </article>
  );
}

/** A windowed view over the time of its windows; a running one over the time of watching. */
function Drawn({ view, axes, rows, value }: { view: View; axes: Axes; rows: Rows; value: string }) {
  const known = useKnown();
  const windows = known.windows.get(view.name);
  const closed = time(view.progress?.closed_until);
  const isStart = axes.time !== null && !/end/i.test(axes.time);
  // A window that starts before this is closed: its end, one length later, is at or below what is closed.
  const length = isStart && windows ? windows.end - windows.start : 0;
  const openFrom = axes.time && closed !== null && view.what.startsWith("windows") ? (closed - length) / 1000 : null;
  const watched = useWatched(axes, rows, value);
  const data = useMemo(() => (axes.time ? lines(rows.rows, axes, value) : watched), [rows, axes, value, watched]);
  if (data.xs.length < 2) return <p class="dim">The chart begins with the second {axes.time ? "window" : "change"}.</p>;
  return (
    <>
      <Chart data={data} openFrom={openFrom} />
      <p class="dim note">
        {axes.time ? `${value} by ${axes.time}; shaded: windows that are open, so not final.` : `${value} since this page was opened.`}
      </p>
    </>
  );
}

/** What values a running aggregate has had while somebody looked. */
function useWatched(axes: Axes, rows: Rows, value: string): Lines {
  const known = useKnown();
  const kept = useRef<{ value: string; seen: Rows | null; trace: { at: number; row: Map<string, number> }[] }>({ value, seen: null, trace: [] });
  if (axes.time) return { xs: [], lines: [], of: 0 };
  if (kept.current.value !== value) kept.current = { value, seen: null, trace: [] };
  if (kept.current.seen !== rows) {
    kept.current.seen = rows;
    const row = new Map(rows.rows.map((row) => [labelOf(row, axes.labels) || value, Number(row[value])]));
    kept.current.trace = [...kept.current.trace, { at: known.now() / 1000, row }].slice(-TRACE);
  }
  const byLabel = new Map<string, Map<number, number>>();
  for (const { at, row } of kept.current.trace) {
    for (const [label, y] of row) byLabel.set(label, (byLabel.get(label) ?? new Map()).set(at, y));
  }
  return pick(kept.current.trace.map((t) => t.at), byLabel);
}

/** The newest rows, the newest windows first. */
function Table({ view, rows }: { view: View; rows: Rows }) {
  const known = useKnown();
  const now = known.now();
  const closed = time(view.progress?.closed_until);
  const key = view.columns.find((column) => column.key);
  const isByTime = key !== undefined && axes(view.columns).time === key.name;
  const newest = isByTime ? newestFirst(rows.rows, key.name) : rows.rows.slice(0, SHOWN);
  const end = view.columns.find((column) => column.name === "window_end")?.name;
  const isOpen = (row: Row) => end !== undefined && closed !== null && (time(row[end]) ?? 0) > closed;
  return (
    <>
      <div class="scroll tall">
        <table data-rows={view.name}>
          <thead>
            <tr>
              {view.columns.map((column) => (
                <th key={column.name} class={isNumeric(column.type) ? "num" : ""} title={column.type}>
                  {column.name}
                </th>
              ))}
              {end && <th />}
            </tr>
          </thead>
          <tbody>
            {newest.map((row) => (
              <tr key={view.columns.filter((c) => c.key).map((c) => String(row[c.name])).join("\n")} class={isOpen(row) ? "is-open" : ""}>
                {view.columns.map(({ name, type }) => {
                  const change = rows.changed.get(row);
                  const isNew = change?.columns.has(name);
                  return (
                    // A cell that changes is another one, so that it lights up again.
                    <td
                      key={`${name} ${isNew ? change?.at : ""}`}
                      class={`${isNumeric(type) ? "num" : ""} ${isNew ? "changed" : ""} ${row[name] === null ? "null" : ""}`}
                      title={typeof row[name] === "string" ? (row[name] as string) : undefined}
                    >
                      {cell(row[name], type, now)}
                    </td>
                  );
                })}
                {end && <td class="dim">{isOpen(row) ? "open" : "closed"}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {rows.rows.length > newest.length && (
        <p class="dim note">
          {count(newest.length, "row")} of the {count(rows.rows.length, "newest row")} here; ask below for others.
        </p>
      )}
    </>
  );
}

/** In the order of the key, but for the windows, whose newest comes first. */
function newestFirst(rows: Row[], key: string): Row[] {
  const groups: Row[][] = [];
  for (let at = rows.length - 1; at >= 0; at -= 1) {
    const last = groups.at(-1);
    if (last && last[0][key] === rows[at][key]) last.unshift(rows[at]);
    else if (groups.reduce((n, group) => n + group.length, 0) >= SHOWN) break;
    else groups.push([rows[at]]);
  }
  return groups.flat().slice(0, SHOWN);
}

function ViewText({ name, ask }: { name: string; ask: (sql: string) => void }) {
  const text = useKnown().texts.get(name);
  if (!text) return null;
  const query = text.sql.replace(/^\s*CREATE\s+MATERIALIZED\s+VIEW\s+\S+\s+AS\s+/i, "");
  return (
    <details>
      <summary>SQL and fingerprint</summary>
      <pre>{text.sql}</pre>
      <p class="dim fingerprint">fingerprint {text.fingerprint}</p>
      <button type="button" onClick={() => ask(`${query}\nORDER BY 1 DESC\nLIMIT 100`)}>
        Ask it below
      </button>
    </details>
  );
}
