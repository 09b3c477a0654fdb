/** The watch: says in one word how things stand, and of each source how far behind it is and who holds it. */

import { type Partition, known } from "./known";
import { time } from "./words";

/** So long after the last commit somebody should look. */
export const QUIET_MS = 8_000;

export interface Source {
  name: string;
  topic: string;
  partitions: Partition[];
  lag: number;
  /** When its last commit was. */
  committed: number | null;
  /** The least watermark of the active partitions, or the greatest if all are idle: no window that ends after it is closed. */
  frontier: number | null;
  /** The partition that has it. */
  holder: Partition | null;
  isIdle: boolean;
  rate: number | null;
}

/** The sources that have begun. */
export function sources(): Source[] {
  const names = [...new Set(known.partitions.map((p) => p.source))];
  return names.map((name) => {
    const partitions = known.partitions.filter((p) => p.source === name);
    const active = partitions.filter((p) => !p.idle);
    const isIdle = active.length === 0;
    const mark = (p: Partition) => time(p.watermark) ?? -Infinity;
    const least = (a: Partition, b: Partition) => (mark(b) < mark(a) ? b : a);
    const greatest = (a: Partition, b: Partition) => (mark(b) > mark(a) ? b : a);
    const holder = isIdle ? partitions.reduce(greatest) : active.reduce(least);
    return {
      name,
      topic: partitions[0].topic,
      partitions,
      lag: partitions.reduce((sum, p) => sum + p.lag, 0),
      committed: time(partitions[0].committed_at),
      frontier: time(holder.watermark),
      holder,
      isIdle,
      rate: known.trends.get(name)?.at(-1)?.rate ?? null,
    };
  });
}

export type Mood = "good" | "quiet" | "bad" | "unknown";

export interface Verdict {
  mood: Mood;
  word: string;
  detail: string;
  /** When the last commit of the source was that has stood still for longest, if one has. */
  still: { source: string; since: number } | null;
}

/** How things stand. */
export function verdict(): Verdict {
  const of = (mood: Mood, word: string, detail: string, still: Verdict["still"] = null) => ({ mood, word, detail, still });
  if (known.needsToken) return of("unknown", "token needed", "the api asks for its bearer token");
  if (known.trouble?.isSilence) return of("bad", "api away", known.trouble.message);
  if (known.trouble) return of("bad", "no answer", known.trouble.message);
  if (!known.views) return of("unknown", "asking…", "");
  if (known.views.length === 0) return of("quiet", "no views", "nothing is declared");
  const waiting = known.views.filter((view) => !view.progress).map((view) => view.name);
  const all = sources();
  if (all.length === 0) return of("bad", "not begun", `no commit yet; waiting: ${waiting.join(", ")}`);
  const still = all.filter((s) => !s.isIdle && s.committed !== null && known.now() - s.committed > QUIET_MS);
  still.sort((a, b) => (a.committed ?? 0) - (b.committed ?? 0));
  if (still[0]) return of("bad", "no commits", "", { source: still[0].name, since: still[0].committed ?? 0 });
  if (waiting.length > 0) return of("bad", "not ready", `not begun: ${waiting.join(", ")}`);
  if (all.every((s) => s.isIdle)) return of("quiet", "quiet", "all partitions are idle");
  return of("good", "alive", "");
}
