/** The catalogue: which tables and columns a query may name. */

import type { SQLNamespace } from "@codemirror/lang-sql";

import { type Column, Problem, query } from "./api";
import type { View } from "./known";

const SYSTEM: Record<string, string[]> = {
  progress: [
    "source", "topic", "partition", "start_offset", "committed_offset", "high_watermark", "lag", "watermark", "idle", "committed_at",
  ],
  windows: ["view", "window_start", "window_end", "closed", "rows"],
  queries: ["name", "source", "closed_until", "decoded", "filtered", "accepted", "late", "failed", "fingerprint", "sql"],
  dead_letters: [
    "source", "view", "topic", "partition", "offset", "count", "reason", "detail", "recorded_at", "payload", "payload_size",
  ],
};

/** What must stand in quotes to be a name. */
const QUOTED = new Set(["view", "partition", "offset"]);

/** Columns that `*` leaves out of a source. */
const HIDDEN = ["_partition", "_offset", "_ingested_at"];

const asked = new Map<string, Promise<Column[]>>();

/** What a source's columns are: only a query tells, so it is asked once. */
function columnsOf(source: string): Promise<Column[]> {
  const name = `"${source.replaceAll('"', '""')}"`;
  const known = asked.get(source) ?? query(`SELECT * FROM ${name} LIMIT 0`).then(({ columns }) => columns);
  asked.set(source, known);
  return known.catch((error) => {
    asked.delete(source);
    if (error instanceof Problem) return [];
    throw error;
  });
}

/** The tables, for completion. */
export async function schema(views: View[]): Promise<SQLNamespace> {
  const named = (name: string) => ({ label: name, type: "property", ...(QUOTED.has(name) ? { apply: `"${name}"` } : {}) });
  const system = Object.entries(SYSTEM).map(([name, columns]) => [name, columns.map(named)]);
  const tables: Record<string, SQLNamespace> = { tidegate: Object.fromEntries(system) };
  for (const view of views) tables[view.name] = view.columns.map((column) => ({ label: column.name, detail: column.type, type: "property" }));
  for (const source of new Set(views.map((view) => view.source))) {
    const columns = (await columnsOf(source)).map((column) => ({ label: column.name, detail: column.type, type: "property" }));
    tables[source] = [...columns, ...HIDDEN];
  }
  return tables;
}
