/** The specimen case: what a body may be, by its media types, with the fields of each and examples. */

import { indented } from "./indent";
import type { Content } from "./openapi";
import { Words } from "./prose";
import type { Field, Shape } from "./shape";

export function Contents({ contents }: { contents: Content[] }) {
  return (
    <ul class="tree">
      {contents.map(({ media, shape, examples }) => (
        <li key={media}>
          <code class="name">{media}</code> {shape && <Told shape={shape} />}
          {shape && <Fields fields={shape.fields} />}
          {examples.map((example, at) => (
            <pre key={at}>{written(example)}</pre>
          ))}
        </li>
      ))}
    </ul>
  );
}

/** An example or a sample as it would be sent. */
export const written = (value: unknown) => (typeof value === "string" ? value : indented(JSON.stringify(value)));

function Fields({ fields }: { fields: Field[] }) {
  if (fields.length === 0) return null;
  return (
    <ul class="tree">
      {fields.map(({ name, required, shape }, at) => (
        <li key={at}>
          <code class="name">{name}</code> <Told shape={shape} optional={!required} />
          <Fields fields={shape.fields} />
        </li>
      ))}
    </ul>
  );
}

function Told({ shape, optional = false }: { shape: Shape; optional?: boolean }) {
  return (
    <>
      <span class="dim">
        <Words text={[shape.type, ...(optional ? ["may be absent"] : []), ...shape.notes].join("; ")} />
      </span>{" "}
      <Words text={shape.description} />
    </>
  );
}
