/** The question desk: SQL of one's own, its answer as a table, a chart or a file, its plan, and its error in its place. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { type Answer, Problem, exact, post } from "./api";
import { Chart } from "./chart";
import { type Editor, openEditor } from "./editor";
import { Grid } from "./grid";
import { type View, useKnown } from "./known";
import { schema } from "./schema";
import { axes, lines } from "./series";
import { count } from "./words";

/** Rows that are shown; a download has all that the api gives. */
const ROWS = 1_000;
const KEPT = "tidegate.query";
const ENDINGS: Record<string, string> = { csv: "csv", jsonl: "jsonl", parquet: "parquet", arrow: "arrows" };

type State =
  | { is: "idle" }
  | { is: "asking"; abort: AbortController }
  | { is: "answered"; answer: Answer; sql: string }
  | { is: "planned"; plans: { kind: string; plan: string }[] }
  | { is: "refused"; problem: Problem };

export function Console({ draft }: { draft: { sql: string } | null }) {
  const known = useKnown();
  const place = useRef<HTMLDivElement>(null);
  const editor = useRef<Editor | null>(null);
  const [state, setState] = useState<State>({ is: "idle" });
  const run = useRef<(explain?: boolean) => void>(() => {});

  run.current = async (explain = false) => {
    const sql = editor.current?.text() ?? "";
    if (!sql.trim()) return;
    sessionStorage.setItem(KEPT, sql);
    editor.current?.blame(null);
    if (state.is === "asking") state.abort.abort();
    const abort = new AbortController();
    setState({ is: "asking", abort });
    try {
      const response = await post(explain ? `EXPLAIN\n${sql}` : sql, { limit: ROWS, signal: abort.signal });
      const answer = exact(await response.text()) as Answer;
      const isPlan = answer.columns[0]?.name === "plan_type" && answer.columns[1]?.name === "plan";
      if (isPlan) setState({ is: "planned", plans: answer.rows.map((row) => ({ kind: String(row[0]), plan: String(row[1]) })) });
      else setState({ is: "answered", answer, sql });
    } catch (error) {
      if (abort.signal.aborted) return setState((now) => (now.is === "asking" && now.abort === abort ? { is: "idle" } : now));
      if (!(error instanceof Problem)) throw error;
      setState({ is: "refused", problem: error });
      if (error.line !== null && error.line !== undefined && error.column !== null) {
        editor.current?.blame({ line: explain ? error.line - 1 : error.line, column: error.column, text: told(error) });
      }
    }
  };

  useEffect(() => {
    if (!place.current) return;
    const text = sessionStorage.getItem(KEPT) ?? "";
    editor.current = openEditor(place.current, text, () => run.current(), "SQL query");
    return () => editor.current?.close();
  }, []);
  useEffect(() => {
    if (!draft) return;
    editor.current?.write(draft.sql);
    editor.current?.focus();
  }, [draft]);

  const names = known.views?.map((view) => `${view.name} ${view.columns.length}`).join() ?? "";
  const completed = useRef("");
  const complete = async () => {
    if (!known.views || completed.current === names) return;
    completed.current = names;
    editor.current?.complete(await schema(known.views));
  };
  const put = (sql: string) => {
    editor.current?.write(sql);
    run.current();
  };
  const mac = /Mac|iPhone|iPad/.test(navigator.platform);
  return (
    <section id="ask">
      <h2>Ask</h2>
      <div class="card" data-console>
        <p class="chips">
          {examples(known.views ?? []).map(({ name, sql }) => (
            <button key={name} type="button" class="chip" onClick={() => put(sql)}>
              {name}
            </button>
          ))}
        </p>
        <div ref={place} class="editor" onFocusIn={complete} />
        <div class="bar">
          <button type="button" class="main" onClick={() => run.current()} title={mac ? "⌘ Enter" : "Ctrl Enter"}>
            Run
          </button>
          <button type="button" onClick={() => run.current(true)}>
            Explain
          </button>
          {state.is === "asking" && (
            <button type="button" onClick={() => state.abort.abort()}>
              Cancel
            </button>
          )}
          <span class="dim hint">{mac ? "⌘" : "Ctrl"}-Enter runs. SELECT over views, sources and tidegate.*: nothing can be changed.</span>
        </div>
        <Outcome state={state} />
      </div>
    </section>
  );
}

function told({ message, hint }: Problem): string {
  const text = message.replace(/^the query: /, "");
  return hint ? `${text}; ${hint}` : text;
}

function Outcome({ state }: { state: State }) {
  switch (state.is) {
    case "idle":
      return <p class="empty">Take one of the questions above, or write your own. An answer reads one snapshot: it never mixes two commits.</p>;
    case "asking":
      return <p class="empty">asking…</p>;
    case "planned":
      return (
        <>
          {state.plans.map(({ kind, plan }) => (
            <div key={kind}>
              <h4>{kind.replaceAll("_", " ")}</h4>
              <pre data-plan={kind}>{plan}</pre>
            </div>
          ))}
        </>
      );
    case "refused":
      return (
        <p class="refused" role="alert" data-code={state.problem.code}>
          <b>{state.problem.code || "no answer"}</b>{" "}
          {state.problem.line ? `line ${state.problem.line}, column ${state.problem.column}: ` : ""}
          {told(state.problem)}
        </p>
      );
    case "answered":
      return <Answered answer={state.answer} sql={state.sql} />;
  }
}

function Answered({ answer, sql }: { answer: Answer; sql: string }) {
  const [isChart, setChart] = useState(false);
  const drawn = useMemo(() => axes(answer.columns), [answer]);
  const [value, setValue] = useState<string | null>(null);
  const number = value && drawn.numbers.includes(value) ? value : drawn.numbers[0];
  const canDraw = drawn.time !== null && number !== undefined && answer.rows.length > 1;
  const data = useMemo(() => {
    if (!canDraw || !isChart) return null;
    const rows = answer.rows.map((row) => Object.fromEntries(answer.columns.map(({ name }, at) => [name, row[at]])));
    return lines(rows, drawn, number);
  }, [answer, isChart, number]);
  return (
    <>
      <div class="bar" data-answer>
        <span>
          {count(answer.row_count, "row")}
          {answer.truncated ? " shown, and there are more" : ""} <span class="dim">in {answer.stats.elapsed_ms.toFixed(0)} ms</span>
        </span>
        <span class="grow" />
        {canDraw && (
          <span class="switch">
            <button type="button" aria-pressed={!isChart} onClick={() => setChart(false)}>
              Table
            </button>
            <button type="button" aria-pressed={isChart} onClick={() => setChart(true)}>
              Chart
            </button>
          </span>
        )}
        {isChart && canDraw && (
          <select aria-label="What is drawn" value={number} onChange={(event) => setValue(event.currentTarget.value)}>
            {drawn.numbers.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        )}
        <Download sql={sql} />
      </div>
      {data ? <Chart data={data} height={300} /> : <Grid columns={answer.columns} rows={answer.rows} />}
    </>
  );
}

/** Asks again, for all rows and in another form, and saves what comes. */
function Download({ sql }: { sql: string }) {
  const [told, setTold] = useState("");
  const load = async (event: Event & { currentTarget: HTMLSelectElement }) => {
    const format = event.currentTarget.value;
    event.currentTarget.value = "";
    if (!format) return;
    setTold("asking…");
    try {
      const response = await post(sql, { format });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await response.blob());
      link.download = `tidegate-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${ENDINGS[format]}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      setTold(response.headers.get("x-tidegate-truncated") === "true" ? "cut at the api's limit of rows" : "");
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      setTold(error.message);
    }
  };
  return (
    <>
      {told && <span class="dim">{told}</span>}
      <select aria-label="Download" onChange={load}>
        <option value="">Download…</option>
        {Object.keys(ENDINGS).map((format) => (
          <option key={format} value={format}>
            {format}
          </option>
        ))}
      </select>
    </>
  );
}

/** Questions to begin with, about what there is. */
function examples(views: View[]): { name: string; sql: string }[] {
  const windowed = views.find((view) => view.what.startsWith("windows"));
  const start = windowed && axes(windowed.columns).time;
  const source = views[0]?.source;
  const newest = windowed && start ? `SELECT *\nFROM ${windowed.name}\nORDER BY ${start} DESC\nLIMIT 100` : null;
  return [
    ...(newest ? [{ name: "newest windows", sql: newest }] : []),
    ...(source ? [{ name: "newest records", sql: `SELECT *, _partition, _offset\nFROM ${source}\nORDER BY _ingested_at DESC\nLIMIT 20` }] : []),
    { name: "lag", sql: 'SELECT source, "partition", lag, watermark, idle, committed_at\nFROM tidegate.progress\nORDER BY lag DESC' },
    {
      name: "dead letters by reason",
      sql:
        'SELECT date_trunc(\'minute\', recorded_at) AS minute, reason, sum(count) AS records\nFROM tidegate.dead_letters\n' +
        "WHERE recorded_at >= now() - INTERVAL '1 hour'\nGROUP BY minute, reason\nORDER BY minute DESC",
    },
  ];
}
