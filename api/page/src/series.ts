/** The draughtsman's table: turns rows into lines over time. */

import type { Cell, Column } from "./api";
import { isNumeric, isTime, time } from "./words";

/** Lines that are drawn at most: more cannot be told apart. */
export const LINES_MAX = 8;

export interface Lines {
  /** Times in seconds. */
  xs: number[];
  lines: { label: string; ys: (number | null)[] }[];
  /** Lines that there are. */
  of: number;
}

type Row = Record<string, Cell>;

/** The columns that a chart can have: the time along it, numbers up it, and what tells lines apart. */
export interface Axes {
  time: string | null;
  numbers: string[];
  labels: string[];
}

/** The axes of columns. Where keys are known, the time is one of them, if one is a time. */
export function axes(columns: (Column & { key?: boolean })[]): Axes {
  const keyed = columns.some((column) => column.key);
  const times = columns.filter((column) => isTime(column.type));
  const first = times.find((column) => column.key) ?? (keyed ? undefined : times[0]);
  const numbers = columns.filter((column) => isNumeric(column.type) && !column.key).map((column) => column.name);
  const isLabel = (column: Column & { key?: boolean }) =>
    keyed ? column.key && column !== first && !isTime(column.type) : !isNumeric(column.type) && !isTime(column.type);
  return { time: first?.name ?? null, numbers, labels: columns.filter(isLabel).map((column) => column.name) };
}

/** The lines of a number. The greatest are kept, by what they have in all. */
export function lines(rows: Row[], axes: Axes, value: string): Lines {
  if (!axes.time) return { xs: [], lines: [], of: 0 };
  const byLabel = new Map<string, Map<number, number>>();
  const times = new Set<number>();
  for (const row of rows) {
    const at = time(row[axes.time]);
    if (at === null) continue;
    const label = labelOf(row, axes.labels) || value;
    const line = byLabel.get(label) ?? new Map<number, number>();
    byLabel.set(label, line);
    times.add(at / 1000);
    if (row[value] !== null && row[value] !== undefined) line.set(at / 1000, Number(row[value]));
  }
  const xs = [...times].sort((a, b) => a - b);
  return pick(xs, byLabel);
}

export function labelOf(row: Row, labels: string[]): string {
  return labels.map((label) => String(row[label] ?? "NULL")).join(" · ");
}

/** The greatest lines, in the order of their names. */
export function pick(xs: number[], byLabel: Map<string, Map<number, number>>): Lines {
  const total = (line: Map<number, number>) => [...line.values()].reduce((sum, y) => sum + Math.abs(y), 0);
  const kept = [...byLabel].sort(([, a], [, b]) => total(b) - total(a)).slice(0, LINES_MAX);
  kept.sort(([a], [b]) => (a < b ? -1 : 1));
  return { xs, lines: kept.map(([label, line]) => ({ label, ys: xs.map((x) => line.get(x) ?? null) })), of: byLabel.size };
}
