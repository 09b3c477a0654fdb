/** The fitting room: a form for one operation, and what the api answers to it. */

import { useEffect, useRef, useState } from "preact/hooks";

import { Answer } from "./answer";
import { Problem, send } from "./api";
import { written } from "./contents";
import type { Content, Operation, Parameter } from "./openapi";
import { type Reply, fileOf, isStream, isText, unpack } from "./reply";
import { type Filled, asked, curl, keyOf } from "./request";

type State = { is: "idle" } | { is: "asking" } | { is: "refused"; why: string } | { is: "answered"; reply: Reply };

export function Attempt({ operation }: { operation: Operation }) {
  const { id, parameters, body, outcomes } = operation;
  const answers = outcomes.filter((outcome) => outcome.status.startsWith("2")).flatMap((outcome) => outcome.contents.map(({ media }) => media));
  const [values, setValues] = useState(() => Object.fromEntries(parameters.map((parameter) => [keyOf(parameter), first(parameter)])));
  const [accept, setAccept] = useState(answers.length > 1 ? answers[0] : "");
  const [media, setMedia] = useState(body?.contents[0]?.media ?? "");
  const [bodies, setBodies] = useState(() => Object.fromEntries((body?.contents ?? []).map((content) => [content.media, sampleOf(content)])));
  const [state, setState] = useState<State>({ is: "idle" });
  const [command, setCommand] = useState("");
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const submit = async (event: Event) => {
    event.preventDefault();
    abort.current?.abort();
    const mine = new AbortController();
    abort.current = mine;
    const show = (state: State) => abort.current === mine && setState(state);
    const filled: Filled = { values, accept, media, body: bodies[media] ?? "" };
    const { path, ...init } = asked(operation, filled);
    const wanted = accept || (answers[0] ?? "");
    const file = isText(wanted) ? null : fileOf(wanted);
    setCommand(curl({ path, ...init }, { needsToken: operation.needsToken, isStream: isStream(wanted), file }));
    setState({ is: "asking" });
    const begun = performance.now();
    try {
      const response = await send(path, { ...init, signal: mine.signal });
      await unpack(response, begun, (reply) => show({ is: "answered", reply }));
      mine.abort();
    } catch (error) {
      if (mine.signal.aborted) return show({ is: "idle" });
      const why = error instanceof Problem ? error.message : `it cannot be asked, or the answer broke off: ${(error as Error).message}`;
      show({ is: "refused", why });
    }
  };
  const isBusy = state.is === "asking" || (state.is === "answered" && state.reply.content.is === "events" && !state.reply.content.isOver);
  return (
    <div data-try={id}>
      <form class="form" onSubmit={submit}>
        {parameters.map((parameter) => {
          const key = keyOf(parameter);
          const set = (value: string) => setValues((now) => ({ ...now, [key]: value }));
          return <Input key={key} id={`${id}-${key}`} parameter={parameter} value={values[key]} set={set} />;
        })}
        {body && body.contents.length > 1 && (
          <Choice id={`${id}-media`} label="Content-Type" value={media} choices={body.contents.map(({ media }) => media)} set={setMedia} />
        )}
        {body && (
          <>
            <label for={`${id}-body`} class="over">
              Body
            </label>
            <textarea
              id={`${id}-body`}
              rows={5}
              spellcheck={false}
              required={body.required}
              value={bodies[media]}
              onInput={(event) => setBodies({ ...bodies, [media]: event.currentTarget.value })}
            />
          </>
        )}
        {answers.length > 1 && <Choice id={`${id}-accept`} label="Accept" value={accept} choices={answers} set={setAccept} />}
        <div class="bar">
          <button type="submit" class="main">
            Send
          </button>
          {isBusy && (
            <button type="button" onClick={() => abort.current?.abort()}>
              Stop
            </button>
          )}
          {parameters.some((parameter) => !parameter.required) && <span class="dim">What is empty is not sent.</span>}
        </div>
      </form>
      {state.is === "asking" && <p class="empty">asking…</p>}
      {state.is === "refused" && (
        <p class="refused" role="alert">
          {state.why}
        </p>
      )}
      {state.is === "answered" && <Answer reply={state.reply} />}
      {command && (
        <>
          <p class="dim">The same with curl:</p>
          <pre data-curl>{command}</pre>
        </>
      )}
    </div>
  );
}

const sampleOf = ({ shape, examples }: Content) => written(examples[0] ?? shape?.sample ?? "");

/** What stands in an input to begin with: something only where something must. */
function first({ required, shape, example }: Parameter): string {
  if (!required) return "";
  return example === undefined ? (shape.choices[0] ?? "") : written(example);
}

/** Bounds are left to the api: what it says about a value that is out of them is worth seeing. */
function Input({ id, parameter, value, set }: { id: string; parameter: Parameter; value: string; set: (value: string) => void }) {
  const { name, required, shape, example } = parameter;
  const hint = shape.otherwise ?? (example === undefined ? "" : written(example));
  if (shape.choices.length > 0) {
    const none = shape.otherwise === null ? "" : `(${shape.otherwise})`;
    return <Choice id={id} label={name} value={value} choices={required ? shape.choices : ["", ...shape.choices]} none={none} set={set} />;
  }
  return (
    <>
      <label for={id}>{name}</label>
      <input
        id={id}
        type="text"
        autocomplete="off"
        spellcheck={false}
        required={required}
        placeholder={hint}
        value={value}
        onInput={(event) => set(event.currentTarget.value)}
      />
    </>
  );
}

interface Chosen {
  id: string;
  label: string;
  value: string;
  choices: string[];
  /** What stands for nothing. */
  none?: string;
  set: (value: string) => void;
}

function Choice({ id, label, value, choices, none = "", set }: Chosen) {
  return (
    <>
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => set(event.currentTarget.value)}>
        {choices.map((choice) => (
          <option key={choice} value={choice}>
            {choice || none}
          </option>
        ))}
      </select>
    </>
  );
}
