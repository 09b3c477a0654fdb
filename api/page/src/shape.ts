/** The pattern maker: a JSON Schema as a tree of fields, each with its type and its bounds in words. */

import { number } from "./words";

/** As far as it is read here. */
export interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  example?: unknown;
  examples?: unknown[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  items?: Schema | boolean;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema | boolean;
  allOf?: Schema[];
  anyOf?: Schema[];
  oneOf?: Schema[];
}

export interface Shape {
  type: string;
  description: string;
  /** What else is true of it; what stands in backticks is code. */
  notes: string[];
  fields: Field[];
  /** What it may be, where that can be listed. */
  choices: string[];
  /** What it is if nothing is said. */
  otherwise: string | null;
  example: unknown;
  /** A value that fits, made up where there is no example. */
  sample: unknown;
}

export interface Field {
  name: string;
  required: boolean;
  shape: Shape;
}

/** Finds what a `$ref` names. */
export type Look = (ref: string) => unknown;

/** Integers and floats of a machine: their bounds say no more than this. */
const INTEGERS = [8, 16, 32, 64];
const SINGLE = (2 - 2 ** -23) * 2 ** 127;

const plain = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));
export const nameOf = (ref: string) => ref.split("/").at(-1) ?? ref;

/** Reads a schema. `within` are the names that it is read for: one that is met again is not opened again. */
export function shape(given: Schema, look: Look, within: string[] = []): Shape {
  const { $ref, ...own } = given;
  if ($ref && within.includes($ref)) {
    const type = nameOf($ref);
    return { type, description: own.description ?? "", notes: ["as above"], fields: [], choices: [], otherwise: null, example: undefined, sample: null };
  }
  if ($ref) return shape({ ...(look($ref) as Schema | undefined), ...own }, look, [...within, $ref]);

  const read = (schema: Schema) => shape(schema, look, within);
  const items = typeof own.items === "object" ? read(own.items) : null;
  const others = typeof own.additionalProperties === "object" ? read(own.additionalProperties) : null;
  const parts = (own.allOf ?? []).map(read);
  const forms = [...(own.oneOf ?? []), ...(own.anyOf ?? [])];
  const alternatives = forms.map(read);

  const types = [own.type ?? implied(own)].flat();
  const named = types.map((type) => {
    if (type === "array") return items ? `list of ${items.type}` : "list";
    if (type === "object" && others) return `object of ${others.type}`;
    return own.format && type !== "null" ? `${type} (${own.format})` : type;
  });
  const type = [...new Set([...named, ...parts.map((part) => part.type), ...alternatives.map((form) => form.type)])].join(" or ");

  const required = new Set(own.required);
  const fields = Object.entries(own.properties ?? {}).map(([name, of]) => ({ name, required: required.has(name), shape: read(of) }));
  fields.push(...(items?.fields ?? []), ...parts.flatMap((part) => part.fields));
  if (others && others.fields.length > 0) fields.push({ name: "(any name)", required: false, shape: others });
  const open = alternatives.map((form, at) => ({ form, name: forms[at].$ref ? nameOf(forms[at].$ref) : `form ${at + 1}` }));
  const deep = open.filter(({ form }) => form.fields.length > 0);
  if (deep.length === 1) fields.push(...deep[0].form.fields);
  else fields.push(...deep.map(({ form, name }) => ({ name: `either ${name}`, required: false, shape: form })));

  const choices = (own.enum ?? (own.const === undefined ? [] : [own.const])).filter((value) => value !== null).map(plain);
  const example = own.example ?? own.examples?.[0];
  const inner = [items, ...parts, ...alternatives].filter((part) => part !== null);
  return {
    type: type || "anything",
    description: own.description ?? inner.find((part) => part.description)?.description ?? "",
    notes: [...notes(own, choices), ...inner.flatMap((part) => part.notes)],
    fields,
    choices: types.includes("boolean") ? ["true", "false"] : choices,
    otherwise: own.default === undefined || own.default === null ? null : plain(own.default),
    example,
    sample: example ?? own.default ?? own.enum?.[0] ?? own.const ?? sample(types[0], own, fields, inner),
  };
}

function implied({ properties, additionalProperties, items, enum: choices, const: only }: Schema): string[] {
  if (properties || additionalProperties) return ["object"];
  if (items) return ["array"];
  const value = only ?? choices?.[0];
  return value === undefined ? [] : [typeof value];
}

function notes(schema: Schema, choices: string[]): string[] {
  const { minLength, maxLength, pattern, default: otherwise, examples, example } = schema;
  const shown = example ?? examples?.[0];
  return [
    ...(choices.length > 0 ? [`${choices.length > 1 ? "one of" : "always"} ${choices.map((choice) => `\`${choice}\``).join(", ")}`] : []),
    ...bounds(schema),
    ...(minLength !== undefined ? [`at least ${number(minLength)} long`] : []),
    ...(maxLength !== undefined ? [`at most ${number(maxLength)} long`] : []),
    ...(pattern !== undefined ? [`matches \`${pattern}\``] : []),
    ...(otherwise !== undefined && otherwise !== null ? [`default \`${plain(otherwise)}\``] : []),
    ...(shown !== undefined ? [`such as \`${plain(shown)}\``] : []),
  ];
}

function bounds({ minimum: least, maximum: most, exclusiveMinimum: above, exclusiveMaximum: below }: Schema): string[] {
  const bits = INTEGERS.find((bits) => least === -(2 ** (bits - 1)) && most === 2 ** (bits - 1) - 1);
  if (bits) return [`${bits} bits`];
  if (most === SINGLE && least === -SINGLE) return ["32 bits"];
  if (least !== undefined && most !== undefined) return [`${number(least)} to ${number(most)}`];
  return [
    ...(least !== undefined ? [`at least ${number(least)}`] : []),
    ...(most !== undefined ? [`at most ${number(most)}`] : []),
    ...(above !== undefined ? [`more than ${number(above)}`] : []),
    ...(below !== undefined ? [`less than ${number(below)}`] : []),
  ];
}

/** A value that fits a type: of an object what it must have. */
function sample(type: string | undefined, schema: Schema, fields: Field[], inner: Shape[]): unknown {
  const needed = fields.filter((field) => field.required).map(({ name, shape }) => [name, shape.sample]);
  switch (type) {
    case "object":
      return Object.fromEntries(needed);
    case "array":
      return [];
    case "integer":
    case "number":
      return schema.minimum ?? 0;
    case "boolean":
      return false;
    case "string":
      return "";
    default:
      return inner.length > 0 ? inner[0].sample : null;
  }
}
