/** The house: which rooms there are, and in which order. */

import { useState } from "preact/hooks";

import { Console } from "./console";
import { admit, useKnown } from "./known";
import { DeadLetters } from "./letters";
import { Sources } from "./sources";
import { Standing } from "./standing";
import { ThemeSwitch } from "./switch";
import { Token } from "./token";
import { Views } from "./views";

export function Page() {
  const known = useKnown();
  const [draft, setDraft] = useState<{ sql: string } | null>(null);
  const toConsole = (sql: string) => {
    setDraft({ sql });
    document.getElementById("ask")?.scrollIntoView({ behavior: "smooth" });
  };
  return (
    <>
      <header class="top">
        <h1>Tidegate</h1>
        <nav aria-label="Sections">
          <a href="#sources">Sources</a>
          <a href="#views">Views</a>
          <a href="#dead-letters">Dead letters</a>
          <a href="#ask">Ask</a>
        </nav>
        <a href="/api">API</a>
        <ThemeSwitch />
      </header>
      <Standing />
      <main>
        {known.needsToken && <Token enter={admit} />}
        {(known.views || !known.needsToken) && (
          <>
            <Sources />
            <Views ask={toConsole} />
            <DeadLetters />
            <Console draft={draft} />
          </>
        )}
      </main>
      <footer class="dim">
        Times are UTC. Also here: <a href="/api/v1/queries">/api/v1/queries</a>, <a href="/prometheus">/prometheus</a>,{" "}
        <a href="/readyz">/readyz</a>
      </footer>
    </>
  );
}
