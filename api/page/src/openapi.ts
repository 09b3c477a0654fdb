/** The librarian: reads the api's own document (OpenAPI 3.1), and puts it into the order in which it is shown. */

import { ask } from "./api";
import { type Schema, type Shape, shape } from "./shape";

export const PATH = "/api/openapi.json";
const METHODS = ["get", "post", "put", "patch", "delete"] as const;
const PATIENCE_MS = 10_000;

export type Place = "query" | "path" | "header";

export interface Parameter {
  name: string;
  place: Place;
  required: boolean;
  description: string;
  shape: Shape;
  example: unknown;
}

/** A body in one of its forms. */
export interface Content {
  media: string;
  shape: Shape | null;
  examples: unknown[];
}

export interface Outcome {
  status: string;
  description: string;
  contents: Content[];
}

export interface Operation {
  /** Its name in the address, such as `get-/health`. */
  id: string;
  method: string;
  path: string;
  summary: string;
  description: string;
  tags: string[];
  deprecated: boolean;
  needsToken: boolean;
  parameters: Parameter[];
  body: { required: boolean; description: string; contents: Content[] } | null;
  outcomes: Outcome[];
}

export interface Group {
  name: string;
  description: string;
  operations: Operation[];
}

export interface Reference {
  title: string;
  version: string;
  description: string;
  groups: Group[];
  /** The document itself. */
  text: string;
}

type Told<T> = T & { $ref?: string };

interface ToldExamples {
  example?: unknown;
  examples?: Record<string, { value?: unknown }>;
}

type ToldContents = Record<string, ToldExamples & { schema?: Schema }>;

interface ToldParameter extends ToldExamples {
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema?: Schema;
}

interface ToldOperation {
  summary?: string;
  description?: string;
  tags?: string[];
  deprecated?: boolean;
  security?: Record<string, string[]>[];
  parameters?: Told<ToldParameter>[];
  requestBody?: Told<{ required?: boolean; description?: string; content?: ToldContents }>;
  responses?: Record<string, Told<{ description?: string; content?: ToldContents }>>;
}

type ToldPath = { [method in (typeof METHODS)[number]]?: ToldOperation } & { parameters?: Told<ToldParameter>[] };

interface Document {
  info: { title: string; version: string; description?: string };
  tags?: { name: string; description?: string }[];
  paths?: Record<string, ToldPath>;
  security?: Record<string, string[]>[];
}

/** Asks for the document, and reads it. */
export async function load(): Promise<Reference> {
  const response = await ask(PATH, { signal: AbortSignal.timeout(PATIENCE_MS) });
  const text = await response.text();
  return read(JSON.parse(text) as Document, text);
}

function read(document: Document, text: string): Reference {
  const operations = Object.entries(document.paths ?? {}).flatMap(([path, told]) =>
    METHODS.flatMap((method) => (told[method] ? [operation(document, path, method, told[method], told.parameters ?? [])] : [])),
  );
  const tags = document.tags ?? [];
  // What has no tag, or one that is not declared, comes last.
  const undeclared = new Set(operations.map(tagOf).filter((name) => !tags.some((tag) => tag.name === name)));
  const groups = [...tags, ...[...undeclared].map((name) => ({ name, description: "" }))].map(({ name, description = "" }) => ({
    name,
    description,
    operations: operations.filter((operation) => tagOf(operation) === name),
  }));
  const { title, version, description = "" } = document.info;
  return { title, version, description, groups: groups.filter((group) => group.operations.length > 0), text };
}

const tagOf = (operation: Operation) => operation.tags[0] ?? "others";

function operation(document: Document, path: string, method: string, told: ToldOperation, shared: Told<ToldParameter>[]): Operation {
  const look = (ref: string) => find(document, ref);
  const parameters = [...shared, ...(told.parameters ?? [])].map((parameter) => resolved(parameter, look));
  // One of the operation's own stands for one of all operations of its path.
  const known = new Map(parameters.map((parameter) => [`${parameter.in} ${parameter.name}`, parameter]));
  const body = told.requestBody && resolved(told.requestBody, look);
  return {
    id: `${method}-${path}`,
    method: method.toUpperCase(),
    path,
    summary: told.summary ?? "",
    description: told.description ?? "",
    tags: told.tags ?? [],
    deprecated: told.deprecated ?? false,
    needsToken: (told.security ?? document.security ?? []).some((scheme) => Object.keys(scheme).length > 0),
    parameters: [...known.values()].flatMap((parameter) => readParameter(parameter, look)),
    body: body ? { required: body.required ?? false, description: body.description ?? "", contents: contents(body.content, look) } : null,
    outcomes: Object.entries(told.responses ?? {}).map(([status, response]) => {
      const { description = "", content } = resolved(response, look);
      return { status, description, contents: contents(content, look) };
    }),
  };
}

/** A page cannot send cookies of its choice, so they are left out. */
function readParameter(told: ToldParameter, look: (ref: string) => unknown): Parameter[] {
  const { name, in: place, required = false, schema = {} } = told;
  if (place !== "query" && place !== "path" && place !== "header") return [];
  const read = shape(schema, look);
  const example = examples(told)[0] ?? read.example;
  return [{ name, place, required, description: told.description ?? read.description, shape: read, example }];
}

function contents(told: ToldContents | undefined, look: (ref: string) => unknown): Content[] {
  return Object.entries(told ?? {}).map(([media, content]) => ({
    media,
    shape: content.schema ? shape(content.schema, look) : null,
    examples: examples(content),
  }));
}

function examples({ example, examples = {} }: ToldExamples): unknown[] {
  const named = Object.values(examples).map(({ value }) => value);
  return [example, ...named].filter((value) => value !== undefined);
}

/** What a `$ref` names, a few steps on if need be. */
function resolved<T extends { $ref?: string }>(told: T, look: (ref: string) => unknown, steps = 8): T {
  if (!told.$ref || steps === 0) return told;
  const found = look(told.$ref);
  return found === undefined ? told : resolved(found as T, look, steps - 1);
}

/** Follows `#/components/schemas/Answer` and the like. */
function find(document: unknown, ref: string): unknown {
  if (!ref.startsWith("#/")) return undefined;
  const steps = ref.slice(2).split("/").map((step) => decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~"));
  let at = document;
  for (const step of steps) at = typeof at === "object" && at !== null ? (at as Record<string, unknown>)[step] : undefined;
  return at;
}
