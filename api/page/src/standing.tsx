/** The gauge board: is it alive, how far behind, what was rejected, what is newest. */

import { sources, verdict } from "./judge";
import { LETTERS_MINUTES, useKnown } from "./known";
import { clock, count, moment, number, span, time } from "./words";

export function Standing() {
  const known = useKnown();
  const now = known.now();
  const told = verdict();
  const all = sources();
  const last = Math.max(...all.map((s) => s.committed ?? -Infinity));
  document.title = told.mood === "good" ? "Tidegate" : `${told.word} – Tidegate`;
  return (
    <>
      <section class="standing" aria-label="How things stand">
        <Tile name="state" label="State" value={told.word} mood={told.mood}>
          {told.detail || (Number.isFinite(last) ? `last commit ${span(now - last)} ago` : "")}
        </Tile>
        <Behind />
        <Rejected />
        <Newest />
      </section>
      <Alarm />
    </>
  );
}

interface Given {
  name: string;
  label: string;
  value: string;
  mood?: string;
  children?: preact.ComponentChildren;
}

function Tile({ name, label, value, mood, children }: Given) {
  return (
    <div class="tile" data-tile={name} data-mood={mood}>
      <span class="label">{label}</span>
      <strong>
        {mood && <i class="dot" />}
        {value}
      </strong>
      <span class="dim">{children}</span>
    </div>
  );
}

function Behind() {
  const known = useKnown();
  const now = known.now();
  const all = sources();
  const lag = all.reduce((sum, s) => sum + s.lag, 0);
  const slowest = all.filter((s) => !s.isIdle).sort((a, b) => (a.frontier ?? 0) - (b.frontier ?? 0))[0];
  const rate = all.reduce((sum, s) => sum + (s.rate ?? 0), 0);
  if (all.length === 0) return <Tile name="behind" label="Behind" value="–" />;
  const age = slowest && slowest.frontier !== null ? span(now - slowest.frontier) : null;
  // What is more than two seconds' work is worth an estimate.
  const work = rate > 0 && lag > 2 * rate ? `${span((lag / rate) * 1000)} of work at ${number(Math.round(rate))}/s` : null;
  return (
    <Tile name="behind" label="Behind" value={age ? `${count(lag, "record")} · ${age}` : count(lag, "record")}>
      {work ?? (age ? `the watermark is ${age} old` : slowest ? "no watermark yet" : "every partition is idle")}
    </Tile>
  );
}

function Rejected() {
  const known = useKnown();
  const label = `Lost or rejected, ${LETTERS_MINUTES} min`;
  if (!known.rejects || !known.views?.length) return <Tile name="rejected" label={label} value={known.letters && !known.rejects ? "too many to count" : "–"} />;
  const sum = (keep: (view: string | null, reason: string) => boolean) =>
    known.rejects?.filter((r) => keep(r.view, r.reason)).reduce((n, r) => n + Number(r.records), 0) ?? 0;
  const isLate = (reason: string) => reason.startsWith("late");
  const rejected = sum((view) => view === null);
  const late = sum((view, reason) => view !== null && isLate(reason));
  const failed = sum((view, reason) => view !== null && !isLate(reason));
  const open = (known.views ?? []).flatMap((v) => v.progress ?? []).map((p) => p.decoded - p.filtered - p.accepted - p.late - p.failed);
  const astray = open.reduce((n, x) => n + Math.abs(x), 0);
  const parts = [`${number(rejected)} rejected`, `${number(late)} late`, ...(failed ? [`${number(failed)} failed`] : [])];
  return (
    <Tile name="rejected" label={label} value={parts.join(" · ")} mood={astray || failed ? "bad" : undefined}>
      {astray ? `${count(astray, "record")} unaccounted for` : "every decoded record is accounted for"}
    </Tile>
  );
}

function Newest() {
  const known = useKnown();
  const now = known.now();
  const [newest] = [...known.windows].sort(([, a], [, b]) => b.start - a.start);
  if (!newest) return <Tile name="newest" label="Newest window" value="–">{known.views ? "no window has rows yet" : ""}</Tile>;
  const [name, window] = newest;
  const closed = time(known.views?.find((view) => view.name === name)?.progress?.closed_until);
  const state = closed !== null && closed >= window.end ? "closed" : "open";
  return (
    <Tile name="newest" label="Newest window" value={`${clock(window.start, now)}–${clock(window.end, window.start)}`}>
      {name}, {state}, began {span(now - window.start)} ago
    </Tile>
  );
}

/** What somebody must know at once, in a sentence. */
function Alarm() {
  const known = useKnown();
  const now = known.now();
  const told = verdict();
  if (told.mood !== "bad") return null;
  if (told.still) {
    return (
      <p class="alarm" role="alert">
        <b>No commits since {moment(told.still.since, now)}</b> (source {told.still.source}). The engine has stopped, stands still, or
        nothing arrives. What is shown below is what was committed until then.
      </p>
    );
  }
  const since = known.answered === null ? "" : ` The last answer came ${span(now - known.answered)} ago; what is shown below is from then.`;
  const hint = known.trouble?.hint ? ` ${known.trouble.hint}.` : "";
  return (
    <p class="alarm" role="alert">
      <b>{told.word}</b>: {told.detail}.{hint}
      {known.trouble ? since : ""}
    </p>
  );
}
