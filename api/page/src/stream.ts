/** The pipe: a view's newest rows, as they change. By server-sent events; by asking again where the api has none. */

import { type Cell, Problem, ask, get } from "./api";
import { events } from "./events";
import { type View, known } from "./known";
import { every } from "./poll";

/** Rows that are kept of a view. */
export const ROWS_MAX = 1_000;
const POLL_MS = 2_000;
/** All rows are read again so often, since an event does not tell of rows that have gone. */
const AGAIN_MS = 60_000;
const RETRY_MS = 3_000;
/** For so long a change is a change. */
const FRESH_MS = 1_600;

export type Row = Record<string, Cell>;

/** Which columns of a row have changed, and when. */
export interface Change {
  columns: Set<string>;
  at: number;
}

/** The newest rows of a view in the order of its key, and those that have just changed. */
export interface Rows {
  rows: Row[];
  changed: Map<Row, Change>;
  /** Whether they come as they change. */
  live: boolean;
}

/** Follows a view until what comes back is called. */
export function follow(view: View, show: (rows: Rows) => void, failed: (problem: Problem) => void): () => void {
  const keys = view.columns.filter((column) => column.key).map((column) => column.name);
  const keyOf = (row: Row) => JSON.stringify(keys.map((key) => row[key]));
  let held = new Map<string, Row>();
  let changed = new Map<Row, Change>();
  let live = false;
  let ended = false;
  let read = 0;
  let accepted: number | undefined;

  function merge(rows: Row[], whole: boolean) {
    const at = Date.now();
    const fresh = new Map<Row, Change>();
    const next = whole ? new Map<string, Row>() : new Map(held);
    for (const row of rows) {
      const key = keys.length > 0 ? keyOf(row) : JSON.stringify(row);
      const before = held.get(key);
      const columns = view.columns.map(({ name }) => name).filter((name) => before?.[name] !== row[name]);
      if (before && columns.length === 0) {
        next.set(key, before);
        continue;
      }
      next.set(key, row);
      if (held.size > 0) fresh.set(row, { columns: new Set(columns), at });
    }
    const isStill = ([, change]: [Row, Change]) => change.at > at - FRESH_MS;
    changed = new Map([...[...changed].filter(isStill), ...fresh]);
    held = next;
    if (!whole) held = new Map([...held].sort(([, a], [, b]) => order(a, b)).slice(-ROWS_MAX));
    if (!ended) show({ rows: [...held.values()], changed, live });
  }

  function order(a: Row, b: Row): number {
    for (const key of keys) {
      const [x, y] = [a[key], b[key]];
      if (x === y) continue;
      if (x === null || y === null) return x === null ? 1 : -1;
      return x < y ? -1 : 1;
    }
    return 0;
  }

  async function all() {
    const { rows } = await get<{ rows: Row[] }>(`/api/v1/queries/${encodeURIComponent(view.name)}/rows?limit=${ROWS_MAX}`);
    read = Date.now();
    merge(rows, true);
  }

  // By asking: only after something was accepted.
  const polled = every(POLL_MS, async () => {
    if (live && Date.now() - read < AGAIN_MS) return;
    const now = known.views?.find((other) => other.name === view.name)?.progress?.accepted;
    if (!live && read > 0 && now === accepted && Date.now() - read < AGAIN_MS) return;
    try {
      await all();
      accepted = now;
    } catch (error) {
      if (error instanceof Problem) failed(error);
      else throw error;
    }
  });

  // By events: `rows` with `{"columns": […], "rows": [[…]]}`.
  let abort = new AbortController();
  let missing = false;
  async function listen() {
    abort = new AbortController();
    const headers = { accept: "text/event-stream" };
    const response = await ask(`/api/v1/queries/${encodeURIComponent(view.name)}/stream`, { headers, signal: abort.signal });
    if (!response.body) return;
    live = true;
    await all();
    for await (const event of events(response.body)) {
      if (event.name !== "rows") continue;
      const { columns, rows } = JSON.parse(event.data) as { columns: (string | { name: string })[]; rows: Cell[][] };
      const names = columns.map((column) => (typeof column === "string" ? column : column.name));
      merge(rows.map((row) => Object.fromEntries(names.map((name, at) => [name, row[at]]))), false);
    }
  }
  const listened = every(RETRY_MS, async () => {
    if (missing) return RETRY_MS * 100;
    try {
      await listen();
    } catch (error) {
      if (error instanceof Problem) missing = error.status === 404 || error.status === 405;
      else if (!abort.signal.aborted) failed(new Problem(0, "", "the stream of rows broke off"));
    }
    live = false;
    return;
  });
  const hidden = () => document.hidden && abort.abort();
  document.addEventListener("visibilitychange", hidden);

  return () => {
    ended = true;
    document.removeEventListener("visibilitychange", hidden);
    polled();
    listened();
    abort.abort();
  };
}
