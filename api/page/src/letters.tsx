/** The dead-letter office: what was not taken, why, and what it was. */

import { useState } from "preact/hooks";

import { LETTERS_MINUTES, type Letter, useKnown } from "./known";
import { moment, number, time } from "./words";

export function DeadLetters() {
  const known = useKnown();
  const [reason, setReason] = useState<string | null>(null);
  const counts = new Map<string, number>();
  for (const reject of known.rejects ?? []) counts.set(reject.reason, (counts.get(reject.reason) ?? 0) + Number(reject.records));
  const letters = known.letters?.filter((letter) => !reason || letter.reason === reason);
  return (
    <section id="dead-letters">
      <h2>Dead letters</h2>
      {counts.size > 0 && (
        <p class="chips">
          <button type="button" class="chip" aria-pressed={reason === null} onClick={() => setReason(null)}>
            all
          </button>
          {[...counts].sort().map(([name, n]) => (
            <button key={name} type="button" class="chip" aria-pressed={reason === name} onClick={() => setReason(name)}>
              {name} {number(n)}
            </button>
          ))}
          <span class="dim">records in the last {LETTERS_MINUTES} min</span>
        </p>
      )}
      {letters?.length === 0 && (
        <p class="empty">
          {known.letters?.length === 0 ? "None: every record was taken." : `No ${reason} among the newest ${known.letters?.length}; ask for older ones below.`}
        </p>
      )}
      {letters && letters.length > 0 && (
        <ul class="card flush letters">
          {letters.map((letter) => (
            <Item key={[letter.source, letter.view, letter.partition, letter.offset, letter.reason, letter.recorded_at].join("/")} letter={letter} />
          ))}
        </ul>
      )}
    </section>
  );
}

function Item({ letter }: { letter: Letter }) {
  const now = useKnown().now();
  return (
    <li>
      <details>
        <summary>
          <span class="badge">{letter.reason}</span>
          <span class="detail">
            {letter.view && <span class="dim">{letter.view}: </span>}
            {letter.detail}
          </span>
          <span class="dim where">
            {letter.topic}/{letter.partition} @ {number(letter.offset)}
            {letter.count > 1 ? ` and ${number(letter.count - 1)} more` : ""}
          </span>
          <span class="dim when">{moment(time(letter.recorded_at), now)}</span>
        </summary>
        <p class="dim">
          source {letter.source}
          {letter.view ? `, view ${letter.view}` : ", for every view"}
        </p>
        <pre>{letter.payload === null ? "(no payload)" : letter.payload}</pre>
      </details>
    </li>
  );
}
