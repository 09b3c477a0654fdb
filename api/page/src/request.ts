/** The envelope: what a filled form asks, for the api and as a command of the shell. */

import { token } from "./api";
import type { Operation, Parameter } from "./openapi";

/** What somebody has written into the form of an operation. */
export interface Filled {
  /** By [keyOf]; what is empty is not sent. */
  values: Record<string, string>;
  /** The media type that is wanted, if there is a choice. */
  accept: string;
  /** The media type of the body, and the body. */
  media: string;
  body: string;
}

export interface Asked {
  method: string;
  path: string;
  headers: [string, string][];
  body: string | undefined;
}

export const keyOf = ({ place, name }: Parameter) => `${place}-${name}`;

export function asked(operation: Operation, filled: Filled): Asked {
  const given = operation.parameters.flatMap((parameter) => {
    const value = filled.values[keyOf(parameter)] ?? "";
    return value === "" ? [] : [{ ...parameter, value }];
  });
  const at = (place: string) => given.filter((parameter) => parameter.place === place);
  let path = operation.path;
  for (const { name, value } of at("path")) path = path.replaceAll(`{${name}}`, () => encodeURIComponent(value));
  const query = at("query").map(({ name, value }) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  const body = operation.body && filled.body !== "" ? filled.body : undefined;
  const headers: [string, string][] = at("header").map(({ name, value }) => [name, value]);
  if (filled.accept) headers.push(["accept", filled.accept]);
  if (body !== undefined) headers.push(["content-type", filled.media]);
  return { method: operation.method, path: query.length > 0 ? `${path}?${query.join("&")}` : path, headers, body };
}

const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

/** The same for curl. The token is named by its variable and not told. */
export function curl({ method, path, headers, body }: Asked, more: { needsToken: boolean; isStream: boolean; file: string | null }): string {
  const usual = body === undefined ? "GET" : "POST";
  const parts = [
    `curl -s${more.isStream ? "N" : ""}${method === usual ? "" : ` -X ${method}`} ${quote(location.origin + path)}`,
    ...(more.needsToken && token.get() ? ['-H "authorization: Bearer $TIDEGATE__API__TOKEN"'] : []),
    ...headers.map(([name, value]) => `-H ${quote(`${name}: ${value}`)}`),
    ...(body === undefined ? [] : [`--data-raw ${quote(body)}`]),
    ...(more.file ? [`-o ${more.file}`] : []),
  ];
  return parts.join(" \\\n  ");
}
