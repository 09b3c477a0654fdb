/** The gallery: the views in a table, and beneath it the one that is looked at. */

import { useState } from "preact/hooks";

import { type View, useKnown } from "./known";
import { Shown } from "./view";
import { clock, moment, number, span, time } from "./words";

export function Views({ ask }: { ask: (sql: string) => void }) {
  const known = useKnown();
  const [chosen, choose] = useState<string | null>(null);
  const views = known.views ?? [];
  const shown = views.find((view) => view.name === chosen) ?? views[0];
  return (
    <section id="views">
      <h2>Views</h2>
      {known.views?.length === 0 && (
        <p class="empty">No view is declared. Save a CREATE MATERIALIZED VIEW in the queries directory, and see that tidegate check has nothing to say.</p>
      )}
      {views.length > 0 && (
        <div class="card flush">
          <table class="cards">
            <thead>
              <tr>
                <th>view</th>
                <th class="num">rows</th>
                <th class="num">open</th>
                <th class="num">closed</th>
                <th>newest window</th>
                <th>closed until</th>
                <th class="num">accepted</th>
                <th class="num">late</th>
              </tr>
            </thead>
            <tbody>
              {views.map((view) => (
                <Line key={view.name} view={view} isShown={view === shown} choose={() => choose(view.name)} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {shown && <Shown key={shown.name} name={shown.name} ask={ask} />}
    </section>
  );
}

function Line({ view, isShown, choose }: { view: View; isShown: boolean; choose: () => void }) {
  const known = useKnown();
  const now = known.now();
  const windows = known.windows.get(view.name);
  const closed = time(view.progress?.closed_until);
  const isWindowed = view.what.startsWith("windows");
  const counted = (n: number | undefined) => (n === undefined ? "–" : number(n));
  return (
    <tr class={`${isShown ? "chosen" : ""} ${isWindowed ? "" : "unwindowed"}`} onClick={choose} data-view={view.name}>
      <td class="head">
        <button type="button" class="link" aria-pressed={isShown} onClick={choose}>
          {view.name}
        </button>
        <span class="dim">{view.what}</span>
      </td>
      <td class="num" data-label="rows">
        {counted(isWindowed ? windows?.rows : known.counts.get(view.name))}
      </td>
      <td class="num of-windows" data-label="open windows">
        {isWindowed ? counted(windows?.open) : "–"}
      </td>
      <td class="num of-windows" data-label="closed windows">
        {isWindowed ? counted(windows?.closed) : "–"}
      </td>
      <td class="broad of-windows" data-label="newest">
        {isWindowed && windows ? (
          <>
            {clock(windows.start, now)}–{clock(windows.end, windows.start)} <span class="dim">began {span(now - windows.start)} ago</span>
          </>
        ) : (
          "–"
        )}
      </td>
      <td class="broad of-windows" data-label="closed until">
        {isWindowed ? moment(closed, now) : "–"}
      </td>
      <td class="num" data-label="accepted">
        {counted(view.progress?.accepted)}
      </td>
      <td class="num" data-label="late">
        {counted(view.progress?.late)}
      </td>
    </tr>
  );
}
