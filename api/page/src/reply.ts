/** The unpacking room: an answer of any kind, as something that can be shown. */

import { events } from "./events";
import { indented } from "./indent";

/** Characters of a text that are shown; a file has the rest. */
const SHOWN = 100_000;
/** A stream is left after so many events, since only so many may listen at a time; and so much is shown of each. */
const EVENTS = 20;
const EVENT_SHOWN = 600;
/** The headers that say something, beside those of Tidegate. */
const TELLING = ["content-type", "etag", "retry-after", "allow"];

export interface Reply {
  status: number;
  reason: string;
  headers: [string, string][];
  media: string;
  /** Until it was there; of a stream until it began. */
  ms: number;
  content: Content;
}

/** `whole` is what can be saved. */
export type Content =
  | { is: "text"; text: string; whole: Blob | null }
  | { is: "file"; whole: Blob }
  | { is: "events"; texts: string[]; isOver: boolean };

const ENDINGS: Record<string, string> = {
  "application/json": "json",
  "application/problem+json": "json",
  "application/x-ndjson": "jsonl",
  "text/csv": "csv",
  "application/vnd.apache.arrow.stream": "arrows",
  "application/vnd.apache.parquet": "parquet",
};

export const bare = (media: string) => media.split(";")[0].trim().toLowerCase();
export const isStream = (media: string) => bare(media) === "text/event-stream";
export const isText = (media: string) => bare(media) === "" || /^text\/|json$|xml$/.test(bare(media));
const isJson = (media: string) => /[/+]json$/.test(bare(media));
export const fileOf = (media: string) => `answer.${ENDINGS[bare(media)] ?? (isText(media) ? "txt" : "bin")}`;

/** Reads an answer, and shows it; a stream again and again, until it ends. */
export async function unpack(response: Response, begun: number, show: (reply: Reply) => void) {
  const media = response.headers.get("content-type") ?? "";
  const head = () => ({
    status: response.status,
    reason: response.statusText,
    headers: [...response.headers].filter(([name]) => TELLING.includes(name) || name.startsWith("x-tidegate-")),
    media,
    ms: performance.now() - begun,
  });
  if (isStream(media) && response.body) return listen(response.body, head(), show);
  const whole = await response.blob();
  if (!isText(media)) return show({ ...head(), content: { is: "file", whole } });
  const text = await whole.text();
  const reply = head();
  if (text.length > SHOWN) return show({ ...reply, content: { is: "text", text: text.slice(0, SHOWN), whole } });
  show({ ...reply, content: { is: "text", text: isJson(media) ? indented(text) : text, whole: null } });
}

async function listen(body: ReadableStream<Uint8Array>, head: Omit<Reply, "content">, show: (reply: Reply) => void) {
  const texts: string[] = [];
  const tell = (isOver: boolean) => show({ ...head, content: { is: "events", texts: [...texts], isOver } });
  tell(false);
  try {
    for await (const { name, data } of events(body)) {
      const rest = data.length - EVENT_SHOWN;
      texts.push(`event: ${name}\ndata: ${data.slice(0, EVENT_SHOWN)}${rest > 0 ? `… and ${rest} characters more` : ""}`);
      if (texts.length === EVENTS) return;
      tell(false);
    }
  } catch {
    // Stopped, or broken off: what was told until then stays.
  } finally {
    tell(true);
  }
}
