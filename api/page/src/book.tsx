/** The book: what may be asked, by its chapters, and a word by which to find it. */

import { useEffect, useMemo, useState } from "preact/hooks";

import { Problem, token } from "./api";
import { type Operation, PATH, type Reference, load } from "./openapi";
import { Entry, named } from "./operation";
import { Prose } from "./prose";
import { ThemeSwitch } from "./switch";
import { Token } from "./token";
import { count } from "./words";

export function Book() {
  const [reference, setReference] = useState<Reference | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const open = () => {
    setProblem(null);
    load().then(setReference, (error) => {
      setProblem(error instanceof Problem ? error : new Problem(0, "", `the document cannot be read: ${(error as Error).message}`));
    });
  };
  useEffect(open, []);
  const enter = (given: string) => {
    token.set(given);
    open();
  };
  return (
    <>
      <header class="top">
        <h1>
          {reference?.title ?? "Tidegate"} <span class="dim">API {reference?.version}</span>
        </h1>
        <nav aria-label="Elsewhere">
          <a href="/">How things stand</a>
          {reference && <Source text={reference.text} />}
        </nav>
        <ThemeSwitch />
      </header>
      <main class="reference">
        {problem?.status === 401 && <Token enter={enter} />}
        {problem && problem.status !== 401 && (
          <p class="refused" role="alert">
            {problem.code && <b>{problem.code} </b>}
            {problem.message}
          </p>
        )}
        {reference && <Chapters reference={reference} />}
      </main>
    </>
  );
}

/** The document. A link cannot carry the token, so where there is one it leads to what was read already. */
function Source({ text }: { text: string }) {
  const made = useMemo(() => (token.get() ? URL.createObjectURL(new Blob([text], { type: "application/json" })) : null), [text]);
  return (
    <a href={made ?? PATH} download={made ? "openapi.json" : undefined}>
      openapi.json
    </a>
  );
}

function Chapters({ reference: { description, groups } }: { reference: Reference }) {
  const [filter, setFilter] = useState("");
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const isShown = (operation: Operation) => words.every((word) => textOf(operation).includes(word));
  const all = groups.flatMap((group) => group.operations);
  const shown = all.filter(isShown).length;
  useEffect(() => {
    const turn = () => {
      const place = document.getElementById(named());
      if (!(place instanceof HTMLDetailsElement)) return;
      setFilter("");
      place.open = true;
      // Once it is drawn: the filter may have hidden it.
      setTimeout(() => place.scrollIntoView());
    };
    turn();
    addEventListener("hashchange", turn);
    return () => removeEventListener("hashchange", turn);
  }, []);
  return (
    <>
      <Prose text={description} />
      <div class="bar">
        <label for="filter">Filter</label>
        <input id="filter" type="search" autocomplete="off" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        <span class="dim" role="status">
          {shown < all.length ? `${shown} of ${all.length}` : count(shown, "operation")}
        </span>
      </div>
      {groups.map(({ name, description, operations }) => (
        <section key={name} hidden={!operations.some(isShown)}>
          <h2>{name}</h2>
          <div class="dim chapter">
            <Prose text={description} />
          </div>
          <div class="card flush">
            {operations.map((operation) => (
              <Entry key={operation.id} operation={operation} isShown={isShown(operation)} />
            ))}
          </div>
        </section>
      ))}
    </>
  );
}

/** The words by which an operation is found. */
function textOf({ method, path, summary, description, tags, parameters }: Operation): string {
  const texts = [method, path, summary, description, ...tags, ...parameters.map((parameter) => parameter.name)];
  return texts.join(" ").toLowerCase();
}
