/** The typesetter: texts of the document, in which backticks make code and an empty line a paragraph. */

/** Within a line. */
export function Words({ text }: { text: string }) {
  return <>{text.split(/`([^`]+)`/).map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part))}</>;
}

export function Prose({ text }: { text: string }) {
  const paragraphs = text.split(/\n\s*\n/).filter((paragraph) => paragraph.trim());
  return (
    <>
      {paragraphs.map((paragraph, at) => (
        <p key={at}>
          <Words text={paragraph} />
        </p>
      ))}
    </>
  );
}
