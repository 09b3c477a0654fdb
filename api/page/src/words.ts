/** The signwriter: numbers, times and types in the form in which people read them. */

import type { Cell } from "./api";

const THIN = "\u202f";

/** Digits in groups of three. */
export function number(value: number | string): string {
  const [whole, rest] = String(value).split(".");
  const grouped = /^-?\d{4,}$/.test(whole) ? whole.replace(/\B(?=(\d{3})+$)/g, THIN) : whole;
  return rest === undefined ? grouped : `${grouped}.${rest}`;
}

/** Records a second. */
export function rate(value: number): string {
  return value >= 100 || value === 0 ? number(Math.round(value)) : value.toFixed(1);
}

/** How long something took or is ago. */
export function span(ms: number): string {
  const s = Math.max(0, ms) / 1000;
  if (s < 9.95) return `${s.toFixed(1)}${THIN}s`;
  if (s < 120) return `${Math.round(s)}${THIN}s`;
  if (s < 7200) return `${Math.round(s / 60)}${THIN}min`;
  if (s < 172_800) return `${Math.round(s / 3600)}${THIN}h`;
  return `${number(Math.round(s / 86_400))}${THIN}d`;
}

/** A time of the day in UTC, with its date where that is another. */
export function clock(ms: number, now: number): string {
  const text = new Date(ms).toISOString();
  const time = text.slice(11, 19);
  return text.slice(0, 10) === new Date(now).toISOString().slice(0, 10) ? time : `${text.slice(0, 10)} ${time}`;
}

/** A time in UTC, with its age. */
export function moment(ms: number | null, now: number): string {
  if (ms === null) return "–";
  return `${clock(ms, now)} UTC · ${ms > now + 999 ? `in ${span(ms - now)}` : `${span(now - ms)} ago`}`;
}

/** The milliseconds of a time as the api tells it. */
export function time(value: Cell | undefined): number | null {
  const ms = typeof value === "string" ? Date.parse(value) : NaN;
  return Number.isNaN(ms) ? null : ms;
}

export const isNumeric = (type: string) => /^(U?Int|Float|Decimal)/.test(type);
export const isTime = (type: string) => /^(Timestamp|Date)/.test(type);

/** A value of a table. */
export function cell(value: Cell | undefined, type: string, now?: number): string {
  if (value === null || value === undefined) return "NULL";
  if (isNumeric(type)) return number(value as number | string);
  if (isTime(type) && typeof value === "string") {
    const ms = now === undefined || value.length > 20 ? null : time(value);
    return ms === null || now === undefined ? value.replace("T", " ") : clock(ms, now);
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** One thing or several. */
export function count(n: number, one: string, many = `${one}s`): string {
  return `${number(n)} ${n === 1 ? one : many}`;
}
