/** The notebook: what the page knows of the engine, and how it learns it. Everything that is shown is read from here. */

import { useEffect, useState } from "preact/hooks";

import { type Column, Problem, get, query, records, token } from "./api";
import { every } from "./poll";
import { time } from "./words";

/** How often it asks: where everything stands, what was rejected, and which windows there are. */
const STAND_MS = 2_000;
const LETTERS_MS = 10_000;
const WINDOWS_MS = 20_000;
/** A count of all windows reads every view's table: it may take this part of the time, and no more. */
const WINDOWS_SHARE = 0.02;
/** For how long rates are kept, and over how long they are taken. */
const TREND_MS = 120_000;
const RATE_MS = 10_000;
/** The dead letters that are listed, and the time over which they are counted. */
const LETTERS = 50;
export const LETTERS_MINUTES = 15;

export interface Progress {
  closed_until: string | null;
  decoded: number;
  filtered: number;
  accepted: number;
  late: number;
  failed: number;
}

export interface View {
  name: string;
  source: string;
  what: string;
  columns: (Column & { key: boolean })[];
  progress: Progress | null;
}

export interface Partition {
  source: string;
  topic: string;
  partition: number;
  start_offset: number;
  committed_offset: number;
  high_watermark: number;
  lag: number;
  watermark: string | null;
  idle: boolean;
  committed_at: string | null;
}

/** How a source stood at a time: its records in all, and how many a second came since about ten seconds before. */
export interface Sample {
  at: number;
  records: number;
  rate: number | null;
}

export interface Reject {
  source: string;
  view: string | null;
  reason: string;
  records: number;
}

export interface Letter {
  source: string;
  view: string | null;
  topic: string;
  partition: number;
  offset: number;
  count: number;
  reason: string;
  detail: string;
  recorded_at: string;
  payload: string | null;
}

/** The windows of a view that have rows, at the time of `counted_at`. */
export interface Windows {
  open: number;
  closed: number;
  rows: number;
  start: number;
  end: number;
}

/** What a view's text is. */
export interface Text {
  sql: string;
  fingerprint: string;
}

class Known {
  /** How far the server's clock is ahead of this one. */
  skew = 0;
  views: View[] | null = null;
  partitions: Partition[] = [];
  trends = new Map<string, Sample[]>();
  /** None where they cannot be counted. */
  rejects: Reject[] | null = null;
  letters: Letter[] | null = null;
  windows = new Map<string, Windows>();
  /** Rows of the views without windows. */
  counts = new Map<string, number>();
  texts = new Map<string, Text>();
  /** Why the last question was not answered, and when the last answer was. */
  trouble: Problem | null = null;
  answered: number | null = null;
  needsToken = false;

  now() {
    return Date.now() + this.skew;
  }
}

export const known = new Known();

const listeners = new Set<() => void>();
export const tell = () => listeners.forEach((listener) => listener());

/** Draws a component anew whenever something is learned, and each second, since ages grow by themselves. */
export function useKnown(): Known {
  const [, draw] = useState(0);
  useEffect(() => {
    const listener = () => draw((n) => n + 1);
    const timer = setInterval(() => document.hidden || listener(), 1_000);
    listeners.add(listener);
    return () => {
      clearInterval(timer);
      listeners.delete(listener);
    };
  }, []);
  return known;
}

/** Notes why something was not answered. */
function note(error: unknown) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401) known.needsToken = true;
  else if (error.status !== 429) known.trouble = error;
  tell();
}

async function stand() {
  const asked = Date.now();
  try {
    const [{ queries }, progress] = await Promise.all([
      get<{ queries: View[] }>("/api/v1/queries"),
      records<Partition & { now: string }>(
        'SELECT now() AS now, source, topic, "partition", start_offset, committed_offset, high_watermark, lag, watermark, ' +
          'idle, committed_at FROM tidegate.progress ORDER BY source, "partition"',
      ),
    ]);
    const told = time(progress[0]?.now);
    if (told !== null) known.skew = told - (asked + Date.now()) / 2;
    known.views = queries;
    known.partitions = progress;
    known.trouble = null;
    known.needsToken = false;
    known.answered = known.now();
    for (const source of new Set(progress.map((p) => p.source))) sample(source);
    if (queries.some((view) => !known.texts.has(view.name))) await texts();
  } catch (error) {
    note(error);
  }
  tell();
}

function sample(source: string) {
  const at = known.now();
  const total = known.partitions.filter((p) => p.source === source).reduce((sum, p) => sum + p.committed_offset - p.start_offset, 0);
  const trend = (known.trends.get(source) ?? []).filter((s) => s.at > at - TREND_MS);
  const before = trend.find((s) => s.at >= at - RATE_MS - 500);
  const rate = before ? Math.max(0, ((total - before.records) * 1000) / (at - before.at)) : null;
  known.trends.set(source, [...trend, { at, records: total, rate }]);
}

async function texts() {
  for (const text of await records<Text & { name: string }>("SELECT name, fingerprint, sql FROM tidegate.queries")) {
    known.texts.set(text.name, text);
  }
}

async function letters() {
  if (known.needsToken) return STAND_MS;
  try {
    const [rejects, letters] = await Promise.all([
      records<Reject>(
        'SELECT source, "view", reason, sum(count) AS records FROM tidegate.dead_letters ' +
          `WHERE recorded_at >= now() - INTERVAL '${LETTERS_MINUTES} minutes' GROUP BY source, "view", reason`,
      ).catch((error) => {
        if (error instanceof Problem && error.code === "TG-SCAN-ROWS") return null;
        throw error;
      }),
      records<Letter>(
        'SELECT source, "view", topic, "partition", "offset", count, reason, detail, recorded_at, payload ' +
          `FROM tidegate.dead_letters ORDER BY recorded_at DESC LIMIT ${LETTERS}`,
      ),
    ]);
    known.rejects = rejects;
    known.letters = letters;
  } catch (error) {
    note(error);
  }
  tell();
  return known.needsToken ? STAND_MS : LETTERS_MS;
}

let counted = 0;
let acceptedThen = -1;
let patience = 0;

/** Counts the windows where anything was accepted since then: sooner when a newer one may have begun, seldom where it is slow. */
async function windows() {
  if (known.needsToken || !known.views) return;
  const accepted = known.views.reduce((sum, view) => sum + (view.progress?.accepted ?? 0), 0);
  const isPast = ({ end }: Windows) => known.now() >= end;
  const due = [...known.windows.values()].some(isPast) ? WINDOWS_MS / 4 : WINDOWS_MS;
  if (accepted === acceptedThen || Date.now() - counted < Math.max(due, patience)) return;
  try {
    const { columns, rows, stats } = await query(
      'SELECT "view", sum(CASE WHEN closed THEN 0 ELSE 1 END) AS open, sum(CASE WHEN closed THEN 1 ELSE 0 END) AS closed, ' +
        'sum("rows") AS "rows", max(window_start) AS "start", max(window_end) AS "end" FROM tidegate.windows GROUP BY "view"',
    );
    const at = (name: string) => columns.findIndex((column) => column.name === name);
    known.windows = new Map(
      rows.map((row) => {
        const [open, closed, count] = ["open", "closed", "rows"].map((name) => Number(row[at(name)]));
        return [String(row[0]), { open, closed, rows: count, start: time(row[at("start")]) ?? 0, end: time(row[at("end")]) ?? 0 }];
      }),
    );
    let elapsed = stats.elapsed_ms;
    for (const { name } of known.views.filter((view) => !known.windows.has(view.name) && !view.what.startsWith("windows"))) {
      const { rows, stats } = await query(`SELECT count(*) FROM "${name.replaceAll('"', '""')}"`);
      known.counts.set(name, Number(rows[0][0]));
      elapsed += stats.elapsed_ms;
    }
    patience = elapsed / WINDOWS_SHARE;
  } catch (error) {
    // Too many rows to count, mostly.
    if (error instanceof Problem && !error.isSilence && error.status !== 401) patience = WINDOWS_MS * 15;
    else note(error);
  }
  counted = Date.now();
  acceptedThen = accepted;
  tell();
}

/** Begins to learn. */
export function learn() {
  every(STAND_MS, async () => (known.needsToken ? undefined : stand()));
  every(LETTERS_MS, letters);
  every(STAND_MS / 2, windows);
}

/** Takes a token, and asks again with it. */
export function admit(given: string) {
  token.set(given);
  known.needsToken = false;
  void stand();
}
