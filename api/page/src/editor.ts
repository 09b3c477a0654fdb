/** The writing desk: CodeMirror for one query, with completion, and with an error under the word that it is about.
 *
 * It lives in a shadow root, where CodeMirror adopts its style sheets: into a document it would write <style> elements,
 * which the page's Content-Security-Policy forbids. */

import { autocompletion, closeBrackets, closeBracketsKeymap, closeCompletion, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { type SQLNamespace, sql } from "@codemirror/lang-sql";
import { HighlightStyle, bracketMatching, syntaxHighlighting } from "@codemirror/language";
import { Compartment, EditorState, Prec, StateEffect, StateField } from "@codemirror/state";
import { Decoration, type DecorationSet, EditorView, WidgetType, drawSelection, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";

import { dialect } from "./dialect";

export interface Fault {
  line: number;
  column: number;
  text: string;
}

export interface Editor {
  text(): string;
  write(text: string): void;
  complete(schema: SQLNamespace): void;
  /** Shows an error at its place, until the text changes. */
  blame(fault: Fault | null): void;
  focus(): void;
  close(): void;
}

class Note extends WidgetType {
  constructor(
    readonly indent: number,
    readonly text: string,
  ) {
    super();
  }

  eq(other: Note) {
    return other.indent === this.indent && other.text === this.text;
  }

  toDOM() {
    const note = document.createElement("div");
    note.className = "fault-note";
    note.setAttribute("role", "alert");
    note.textContent = `^ ${this.text}`;
    // Beyond half of a narrow screen the note would have no room.
    note.style.paddingLeft = `min(${this.indent}ch, 50%)`;
    return note;
  }
}

const setFault = StateEffect.define<Fault | null>();

const faults = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(shown, transaction) {
    for (const effect of transaction.effects) {
      if (effect.is(setFault)) return effect.value ? marked(transaction.state, effect.value) : Decoration.none;
    }
    return transaction.docChanged ? Decoration.none : shown;
  },
  provide: (field) => EditorView.decorations.from(field),
});

/** The word at a place that is told in lines and characters from 1, and a note beneath its line. */
function marked(state: EditorState, fault: Fault): DecorationSet {
  const line = state.doc.line(Math.min(Math.max(fault.line, 1), state.doc.lines));
  const characters = [...line.text];
  const before = characters.slice(0, Math.max(fault.column - 1, 0)).join("").length;
  let [from, to] = [before, before + (/^([\p{L}\p{N}_$.]+|"[^"]*"|'[^']*'|\S)/u.exec(line.text.slice(before))?.[0].length ?? 0)];
  // At the end of a line there is nothing to mark but what stands last.
  if (from === to) from = Math.max(0, line.text.slice(0, from).trimEnd().length - 1);
  to = Math.min(Math.max(to, from + 1), line.length);
  const note = Decoration.widget({ widget: new Note(characters.slice(0, fault.column - 1).length, fault.text), block: true, side: 1 });
  const word = from < to ? [Decoration.mark({ class: "fault" }).range(line.from + from, line.from + to)] : [];
  return Decoration.set([...word, note.range(line.to)], true);
}

const look = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "var(--sunk)", fontSize: "13px", borderRadius: "6px", border: "1px solid var(--line)" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-1px" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.55", minHeight: "8.5em", maxHeight: "24em" },
  ".cm-content": { caretColor: "var(--ink)", padding: "8px 0" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--dim)", border: "none" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { background: "var(--select)" },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": { backgroundColor: "var(--select)", outline: "none" },
  ".fault": { textDecoration: "underline wavy var(--bad) 1.5px", textUnderlineOffset: "3px", backgroundColor: "var(--bad-soft)" },
  ".fault-note": { color: "var(--bad)", whiteSpace: "pre-wrap", marginLeft: "6px", paddingRight: "8px" },
  ".cm-tooltip": { backgroundColor: "var(--raised)", color: "var(--ink)", border: "1px solid var(--line)", borderRadius: "6px" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { fontFamily: "var(--mono)", maxHeight: "14em" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-completionDetail": { color: "inherit", opacity: "0.7" },
});

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword], color: "var(--hue-1)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--hue-3)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--hue-2)" },
  { tag: [tags.typeName, tags.standard(tags.name)], color: "var(--hue-4)" },
  { tag: tags.comment, color: "var(--dim)" },
]);

/** Writes over a selection itself. Left alone, Chromium writes with the style of what was selected, as a style attribute, which
 * the policy forbids; nothing is lost then, but the browser complains. */
const overwrite = EditorView.domEventHandlers({
  beforeinput(event, view) {
    const { from, to, empty } = view.state.selection.main;
    const text = event.data;
    const isPlain = event.inputType === "insertText" && text && !event.isComposing && view.state.selection.ranges.length === 1;
    if (!isPlain || empty) return false;
    const insert = () => view.state.update({ ...view.state.replaceSelection(text), userEvent: "input.type", scrollIntoView: true });
    if (!view.state.facet(EditorView.inputHandler).some((handle) => handle(view, from, to, text, insert))) view.dispatch(insert());
    event.preventDefault();
    return true;
  },
});

export function openEditor(place: HTMLElement, text: string, run: () => void, label: string): Editor {
  const root = place.shadowRoot ?? place.attachShadow({ mode: "open" });
  const language = new Compartment();
  const speak = (schema: SQLNamespace) => sql({ dialect, schema, upperCaseKeywords: true });
  const ran = (view: EditorView) => {
    closeCompletion(view);
    run();
    return true;
  };
  const state = EditorState.create({
    doc: text,
    extensions: [
      Prec.highest(keymap.of([{ key: "Mod-Enter", run: ran }])),
      lineNumbers(),
      history(),
      drawSelection(),
      bracketMatching(),
      closeBrackets(),
      autocompletion(),
      EditorView.lineWrapping,
      EditorView.contentAttributes.of({ "aria-label": label, autocapitalize: "off", spellcheck: "false" }),
      syntaxHighlighting(colours),
      look,
      faults,
      overwrite,
      language.of(speak({})),
      keymap.of([...closeBracketsKeymap, ...completionKeymap, ...historyKeymap, ...defaultKeymap]),
    ],
  });
  const view = new EditorView({ state, parent: root, root });
  return {
    text: () => view.state.doc.toString(),
    write: (text) => view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } }),
    complete: (schema) => view.dispatch({ effects: language.reconfigure(speak(schema)) }),
    blame: (fault) => view.dispatch({ effects: setFault.of(fault) }),
    focus: () => view.focus(),
    close: () => view.destroy(),
  };
}
