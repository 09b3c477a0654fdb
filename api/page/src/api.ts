/** The post room: every question to the api goes out here, with the token, and comes back as an answer or as a [Problem]. */

const KEY = "tidegate.token";
const PATIENCE_MS = 10_000;

/** An error as the api tells it (RFC 9457), or that it could not be asked. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly hint: string | null = null,
    readonly line: number | null = null,
    readonly column: number | null = null,
  ) {
    super(detail);
  }

  /** Whether the api itself was not reached. */
  get isSilence() {
    return this.status === 0;
  }
}

export type Cell = null | boolean | number | string | object;

export interface Column {
  name: string;
  type: string;
}

/** What a query answers. */
export interface Answer {
  columns: Column[];
  rows: Cell[][];
  row_count: number;
  truncated: boolean;
  stats: { elapsed_ms: number };
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value: string) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Parses JSON, and keeps as text the numbers whose digits a double would lose, and the zeros at the end of decimals. */
export function exact(text: string): unknown {
  const revive = (_: string, value: unknown, context?: { source?: string }) =>
    typeof value === "number" && context?.source !== undefined && String(value) !== context.source ? context.source : value;
  return JSON.parse(text, revive as (key: string, value: unknown) => unknown);
}

/** Sends a question, and throws a [Problem] only where nobody answers. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (token.get()) headers.set("authorization", `Bearer ${token.get()}`);
  try {
    return await fetch(path, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted && init.signal.reason?.name !== "TimeoutError") throw error;
    throw new Problem(0, "", "the api does not answer");
  }
}

/** Asks, and throws a [Problem] for everything that is not a success. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const response = await send(path, init);
  if (response.ok) return response;
  const text = await response.text();
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    // Something between the page and the api has answered instead of it.
    if (response.status === 502 || response.status === 504) throw new Problem(0, "", "the api does not answer");
    throw new Problem(response.status, String(response.status), text.slice(0, 200) || response.statusText);
  }
  const { code, detail, hint, line, column } = told;
  throw new Problem(response.status, code ?? String(response.status), detail ?? response.statusText, hint, line, column);
}

/** An answer as JSON. */
export async function get<T>(path: string): Promise<T> {
  const response = await ask(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  return exact(await response.text()) as T;
}

/** A question in SQL, in the form that is wanted. */
export function post(sql: string, more: { format?: string; limit?: number; signal?: AbortSignal } = {}): Promise<Response> {
  const { signal, ...asked } = more;
  const headers = { "content-type": "application/json" };
  return ask("/api/v1/sql", { method: "POST", headers, body: JSON.stringify({ sql, format: "json", ...asked }), signal });
}

/** The rows of a query. */
export async function query(sql: string, more: { limit?: number; signal?: AbortSignal } = {}): Promise<Answer> {
  const response = await post(sql, { signal: AbortSignal.timeout(PATIENCE_MS), ...more });
  return exact(await response.text()) as Answer;
}

/** The rows of a query as objects. */
export async function records<T>(sql: string): Promise<T[]> {
  const { columns, rows } = await query(sql);
  return rows.map((row) => Object.fromEntries(columns.map((column, at) => [column.name, row[at]])) as T);
}
