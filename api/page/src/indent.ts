/** The comb: JSON with a line for each thing, but for what is short. Numbers stay as they are written: a double would lose digits. */

const WIDTH = 100;

export function indented(text: string): string {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  const tokens = text.match(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? [];
  let at = 0;

  function value(indent: string): string {
    const open = tokens[at++];
    if (open !== "{" && open !== "[") return open;
    const close = open === "{" ? "}" : "]";
    const members: string[] = [];
    while (tokens[at] !== close) {
      if (tokens[at] === ",") at += 1;
      // The name of a member and its colon.
      const name = open === "{" ? `${tokens[(at += 2) - 2]}: ` : "";
      members.push(name + value(`${indent}  `));
    }
    at += 1;
    const line = `${open}${members.join(", ")}${close}`;
    if (line.length <= WIDTH && !line.includes("\n")) return line;
    return `${open}\n${members.map((member) => `${indent}  ${member}`).join(",\n")}\n${indent}${close}`;
  }

  return value("");
}
