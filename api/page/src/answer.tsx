/** The counter: what the api has answered to somebody's attempt. */

import { useEffect, useState } from "preact/hooks";

import { type Content, type Reply, fileOf } from "./reply";
import { count, number } from "./words";

export function Answer({ reply }: { reply: Reply }) {
  const { status, reason, headers, media, ms } = reply;
  return (
    <div data-answered={status}>
      <p role="status">
        <b data-status={String(status)[0]}>
          {status} {reason}
        </b>{" "}
        <span class="dim">in {number(Math.round(ms))} ms</span>
      </p>
      {headers.length > 0 && <pre data-headers>{headers.map(([name, value]) => `${name}: ${value}`).join("\n")}</pre>}
      <Shown content={reply.content} media={media} />
    </div>
  );
}

function Shown({ content, media }: { content: Content; media: string }) {
  switch (content.is) {
    case "text":
      return (
        <>
          {content.text ? (
            <pre class="body" data-body tabIndex={0}>
              {content.text}
            </pre>
          ) : (
            <p class="dim">It has no body.</p>
          )}
          {content.whole && <Save whole={content.whole} media={media} told="The beginning is shown. All of it: " />}
        </>
      );
    case "file":
      return <Save whole={content.whole} media={media} told="" />;
    case "events":
      return (
        <>
          <pre class="body" data-body tabIndex={0}>
            {content.texts.join("\n\n") || "No event yet."}
          </pre>
          <p class="dim">
            {count(content.texts.length, "event")}
            {content.isOver ? ", and it is over." : "; it goes on."}
          </p>
        </>
      );
  }
}

function Save({ whole, media, told }: { whole: Blob; media: string; told: string }) {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    const made = URL.createObjectURL(whole);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [whole]);
  return (
    <p>
      {told}
      <a href={url} download={fileOf(media)}>
        {fileOf(media)}
      </a>
      , {count(whole.size, "byte")}
    </p>
  );
}
