/** The page of the book: one operation, with its parameters, its body and its answers, and a form to try it. */

import { Attempt } from "./attempt";
import { Contents } from "./contents";
import type { Operation, Outcome, Parameter } from "./openapi";
import { Prose, Words } from "./prose";

export function Entry({ operation, isShown }: { operation: Operation; isShown: boolean }) {
  const { id, method, path, summary, description, deprecated, needsToken, parameters, body, outcomes } = operation;
  return (
    <details class="operation" id={id} hidden={!isShown} onToggle={(event) => keepAddress(id, event.currentTarget.open)}>
      <summary>
        <span class="method" data-method={method}>
          {method}
        </span>
        <code class="path">{path}</code>
        <span class="dim">
          {summary}
          {deprecated && <span class="badge">deprecated</span>}
        </span>
      </summary>
      <div class="inside">
        <Prose text={description} />
        {needsToken && <p class="dim">It needs the token.</p>}
        {parameters.length > 0 && <Parameters parameters={parameters} />}
        {body && (
          <>
            <h4>Body{body.required ? "" : ", if any"}</h4>
            <Prose text={body.description} />
            <Contents contents={body.contents} />
          </>
        )}
        <h4>Answers</h4>
        <Outcomes outcomes={outcomes} />
        <h4>Try it</h4>
        <Attempt operation={operation} />
      </div>
    </details>
  );
}

/** The address names what was opened last, so that it can be given to somebody. */
function keepAddress(id: string, isOpen: boolean) {
  const isNamed = named() === id;
  if (isOpen !== isNamed) history.replaceState(null, "", isOpen ? `#${id}` : location.pathname);
}

/** The operation that the address names. */
export function named(): string {
  const text = location.hash.slice(1);
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function Parameters({ parameters }: { parameters: Parameter[] }) {
  return (
    <>
      <h4>Parameters</h4>
      <table class="parameters">
        <thead>
          <tr>
            <th>name</th>
            <th>in</th>
            <th>type</th>
            <th>may be</th>
            <th>what it is</th>
          </tr>
        </thead>
        <tbody>
          {parameters.map(({ name, place, required, shape, description }) => (
            <tr key={`${place} ${name}`} data-parameter={name}>
              <td>
                <code class="name">{name}</code>
              </td>
              <td class="dim">{place}</td>
              <td class="dim">{shape.type}</td>
              <td>
                <Words text={[...(required ? ["required"] : []), ...shape.notes].join("; ")} />
              </td>
              <td>
                <Words text={description} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

/** Answers that look alike are told together: refusals mostly are, and need not be looked at. */
function Outcomes({ outcomes }: { outcomes: Outcome[] }) {
  const alike = new Map<string, Outcome[]>();
  for (const outcome of outcomes) {
    const looks = JSON.stringify(outcome.contents);
    alike.set(looks, [...(alike.get(looks) ?? []), outcome]);
  }
  return (
    <>
      {[...alike.values()].map((group) => (
        <div key={group[0].status} class="outcomes">
          {group.map(({ status, description }) => (
            <p key={status}>
              <b data-status={status[0]}>{status}</b> <Words text={description} />
            </p>
          ))}
          <Looks group={group} />
        </div>
      ))}
    </>
  );
}

function Looks({ group }: { group: Outcome[] }) {
  const [{ status, contents }] = group;
  if (contents.length === 0) return null;
  if (status.startsWith("2")) return <Contents contents={contents} />;
  return (
    <details>
      <summary>
        {contents.map(({ media }) => media).join(", ")}
        {group.length > 1 && " for each of them"}
      </summary>
      <Contents contents={contents} />
    </details>
  );
}
