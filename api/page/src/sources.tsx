/** The quay: each source with its rate, its lag, its watermark and who holds it, and what was rejected. */

import { type Source, sources } from "./judge";
import { LETTERS_MINUTES, type Sample, useKnown } from "./known";
import { moment, number, rate, time } from "./words";

export function Sources() {
  const known = useKnown();
  const all = sources();
  return (
    <section id="sources">
      <h2>Sources</h2>
      {all.length === 0 && known.views && (
        <p class="empty">
          {known.views.length > 0
            ? "Nothing is committed yet. Start the engine: tidegate run, or tidegate engine beside this api."
            : "No source is declared. Save a CREATE SOURCE and a view in the queries directory, then start the engine and the api anew."}
        </p>
      )}
      {all.map((source) => (
        <SourceCard key={source.name} source={source} />
      ))}
    </section>
  );
}

function SourceCard({ source }: { source: Source }) {
  const known = useKnown();
  const now = known.now();
  const rejects = known.rejects?.filter((r) => r.source === source.name && r.view === null);
  const rejected = rejects?.reduce((n, r) => n + Number(r.records), 0);
  const reasons = rejects?.map((r) => `${r.reason} ${number(r.records)}`).sort();
  return (
    <article class="card" data-source={source.name}>
      <h3>
        {source.name} <span class="dim">topic {source.topic}</span>
        {source.isIdle && <span class="badge">idle</span>}
      </h3>
      <dl class="facts">
        <Fact label="Rate" value={source.rate === null ? "–" : `${rate(source.rate)}/s`}>
          <Spark samples={known.trends.get(source.name) ?? []} />
        </Fact>
        <Fact label="Lag" value={`${number(source.lag)} records`}>
          last commit {moment(source.committed, now)}
        </Fact>
        <Fact label="Watermark" value={source.frontier === null ? "none yet" : moment(source.frontier, now)}>
          {source.holder && `${source.isIdle ? "of" : "held by"} partition ${source.holder.partition}`}
        </Fact>
        <Fact label={`Rejected, ${LETTERS_MINUTES} min`} value={rejected === undefined ? "–" : number(rejected)}>
          {reasons?.join(", ")}
        </Fact>
      </dl>
      <details>
        <summary>Partitions ({source.partitions.length})</summary>
        <div class="scroll">
          <table>
            <thead>
              <tr>
                <th class="num">partition</th>
                <th class="num">committed</th>
                <th class="num">end</th>
                <th class="num">lag</th>
                <th>watermark</th>
                <th />
              </tr>
            </thead>
            <tbody>
              {source.partitions.map((p) => (
                <tr key={p.partition}>
                  <td class="num">{p.partition}</td>
                  <td class="num">{number(p.committed_offset)}</td>
                  <td class="num">{number(p.high_watermark)}</td>
                  <td class="num">{number(p.lag)}</td>
                  <td>{moment(time(p.watermark), now)}</td>
                  <td>
                    {p.idle && <span class="badge">idle</span>}
                    {p === source.holder && !p.idle && <span class="badge">holds the watermark</span>}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </article>
  );
}

function Fact({ label, value, children }: { label: string; value: string; children?: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{label}</dt>
      <dd>{value}</dd>
      <dd class="dim">{children}</dd>
    </div>
  );
}

/** The rate of the last two minutes. */
function Spark({ samples }: { samples: Sample[] }) {
  const rates = samples.flatMap((s) => (s.rate === null ? [] : [{ at: s.at, rate: s.rate }]));
  if (rates.length < 3) return <>measuring…</>;
  const [first, last] = [rates[0].at, rates[rates.length - 1].at];
  const most = Math.max(1, ...rates.map((r) => r.rate));
  const points = rates.map((r) => `${(((r.at - first) / (last - first)) * 120).toFixed(1)},${(19 - (r.rate / most) * 18).toFixed(1)}`);
  return (
    <svg class="spark" viewBox="0 0 120 20" preserveAspectRatio="none" role="img" aria-label="the rate of the last two minutes">
      <polyline points={points.join(" ")} />
    </svg>
  );
}
