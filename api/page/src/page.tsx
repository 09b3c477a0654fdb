/** The house: which rooms there are, and in which order. */

import { useState } from "preact/hooks";

import { Console } from "./console";
import { useKnown } from "./known";
import { DeadLetters } from "./letters";
import { Sources } from "./sources";
import { Standing } from "./standing";
import { type Theme, setTheme, theme } from "./theme";
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
        <ThemeSwitch />
      </header>
      <Standing />
      <main>
        <Token />
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

const NEXT: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
const SIGN: Record<Theme, string> = { auto: "◐", light: "☀", dark: "☾" };

function ThemeSwitch() {
  const [now, setNow] = useState(theme());
  const turn = () => {
    setTheme(NEXT[now]);
    setNow(NEXT[now]);
  };
  return (
    <button type="button" class="quiet" onClick={turn} title={`Theme: ${now}`} aria-label={`Theme: ${now}`}>
      <span aria-hidden="true">{SIGN[now]}</span> <span class="wide">{now}</span>
    </button>
  );
}
