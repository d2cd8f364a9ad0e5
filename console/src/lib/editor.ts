// The editor: Python, its colours, and findings at their lines.

import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { python } from "@codemirror/lang-python";
import { HighlightStyle, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { type Diagnostic, lintGutter, setDiagnostics } from "@codemirror/lint";
import { EditorState, type Extension, Prec, type Range, StateEffect, StateField } from "@codemirror/state";
import {
  Decoration,
  type DecorationSet,
  EditorView,
  WidgetType,
  drawSelection,
  highlightActiveLine,
  highlightActiveLineGutter,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { Finding, Place, ProgramError } from "./types";

/** The word that this page's answer gave to its own style sheets. */
export const NONCE = document.querySelector<HTMLElement>("link[rel=stylesheet]")?.nonce ?? "";

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword, tags.definitionKeyword, tags.moduleKeyword], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName)], color: "var(--code-function)" },
  { tag: [tags.className, tags.typeName], color: "var(--code-function)" },
  { tag: tags.comment, color: "var(--code-comment)", fontStyle: "italic" },
  { tag: tags.invalid, color: "var(--stops)" },
]);

const look = EditorView.theme({
  "&": { height: "100%", fontSize: "13px", backgroundColor: "var(--paper)", color: "var(--ink)" },
  // The ring is drawn around the editor's place, where nothing covers it.
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.55" },
  ".cm-content": { caretColor: "var(--ink)", padding: "8px 0" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  ".cm-gutters": { backgroundColor: "var(--paper)", color: "var(--faint)", border: "none" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--hover)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--selection)" },
  ".cm-lint-marker": { content: "normal", width: "8px", height: "8px", margin: "6px 3px", borderRadius: "50%", backgroundColor: "var(--faint)" },
  ".cm-lint-marker-warning": { content: "normal", backgroundColor: "var(--notes)" },
  ".cm-lint-marker-error": { content: "normal", backgroundColor: "var(--stops)" },
  ".cm-lint-marker-info": { content: "normal" },
  ".cm-tooltip": { backgroundColor: "var(--raised)", color: "var(--ink)", border: "1px solid var(--line)", maxWidth: "48rem" },
});

export interface Remarks {
  findings: Finding[];
  error: ProgramError | null;
}

/** A finding's line below the line that it is about. */
class Remark extends WidgetType {
  constructor(
    readonly kind: string,
    readonly title: string,
    readonly text: string,
  ) {
    super();
  }

  override eq(other: Remark): boolean {
    return other.kind === this.kind && other.title === this.title && other.text === this.text;
  }

  toDOM(): HTMLElement {
    const line = document.createElement("div");
    // The editor measures what it shows, and margins are not measured: the room around is this one's padding.
    line.className = "remark-line";
    const box = line.appendChild(document.createElement("div"));
    box.className = `remark ${this.kind}`;
    box.setAttribute("role", "note");
    const title = box.appendChild(document.createElement("strong"));
    title.textContent = this.title;
    box.append(` ${this.text}`);
    return line;
  }
}

const remark = StateEffect.define<DecorationSet>();
const remarks = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(set, transaction) {
    const told = transaction.effects.find((effect) => effect.is(remark));
    return told ? told.value : set.map(transaction.changes);
  },
  provide: (field) => EditorView.decorations.from(field),
});

const KINDS = { refuse: "stops", confine: "notes", pass: "quiet" } as const;
const SEVERITY = { refuse: "error", confine: "warning", pass: "info" } as const;

function at(state: EditorState, place: Place): { from: number; to: number } {
  const offset = (line: number, column: number) => {
    const found = state.doc.line(Math.min(Math.max(line, 1), state.doc.lines));
    return Math.min(found.from + Math.max(column - 1, 0), found.to);
  };
  const from = offset(place.line, place.column);
  return { from, to: Math.max(from, offset(place.end_line, place.end_column)) };
}

const wholeLine = (line: number): Place => ({ line, column: 1, end_line: line, end_column: 10_000 });

/** Shows what is known of this text at its lines; what only passes is marked and not written out. */
export function showRemarks(view: EditorView, { findings, error }: Remarks): void {
  const diagnostics: Diagnostic[] = [];
  const notes: Range<Decoration>[] = [];
  const note = (line: number, widget: Remark) => {
    const end = view.state.doc.line(Math.min(line, view.state.doc.lines)).to;
    notes.push(Decoration.widget({ widget, block: true, side: 1 }).range(end));
  };
  for (const finding of findings) {
    if (!finding.place) continue;
    const message = `${finding.rule}: ${finding.message}${finding.better_way ? `; ${finding.better_way}` : ""}`;
    diagnostics.push({ ...at(view.state, finding.place), severity: SEVERITY[finding.action], message });
    if (finding.action === "pass") continue;
    const title = finding.action === "refuse" ? `refused: ${finding.rule}` : finding.rule;
    note(finding.place.line, new Remark(KINDS[finding.action], title, finding.message));
  }
  if (error?.line && error.line <= view.state.doc.lines) {
    const message = `${error.name}: ${error.value}`;
    diagnostics.push({ ...at(view.state, wholeLine(error.line)), severity: "error", message });
    note(error.line, new Remark("stops", error.name, error.value));
  }
  diagnostics.sort((a, b) => a.from - b.from || a.to - b.to);
  view.dispatch(setDiagnostics(view.state, diagnostics), { effects: remark.of(Decoration.set(notes, true)) });
}

/** Where a browser itself writes over coloured text it keeps the colours by styles of its own, which the page's policy refuses. */
const overwriting = EditorView.domEventHandlers({
  beforeinput(event, view) {
    const plain = event.inputType === "insertText" && event.data !== null && !view.composing;
    if (!plain || view.state.selection.main.empty) return false;
    event.preventDefault();
    view.dispatch(view.state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
    return true;
  },
});

export function goTo(view: EditorView, line: number): void {
  const { from } = view.state.doc.line(Math.min(Math.max(line, 1), view.state.doc.lines));
  view.dispatch({ selection: { anchor: from }, effects: EditorView.scrollIntoView(from, { y: "center" }) });
  view.focus();
}

/** An editor's state. Tab moves on, so that a keyboard is never caught; Ctrl+] and Ctrl+[ indent. */
export function editorState(code: string, changed: (code: string) => void, run: () => void): EditorState {
  const extensions: Extension[] = [
    EditorView.cspNonce.of(NONCE),
    EditorView.contentAttributes.of({ "aria-label": "Python program", "aria-describedby": "editor-help", tabindex: "0" }),
    Prec.highest(keymap.of([{ key: "Mod-Enter", run: () => (run(), true) }])),
    lineNumbers(),
    highlightActiveLine(),
    highlightActiveLineGutter(),
    drawSelection(),
    history(),
    indentUnit.of("    "),
    indentOnInput(),
    bracketMatching(),
    python(),
    syntaxHighlighting(colours),
    lintGutter(),
    remarks,
    overwriting,
    keymap.of([...defaultKeymap, ...historyKeymap]),
    EditorView.updateListener.of((update) => {
      if (update.docChanged) changed(update.state.doc.toString());
    }),
    look,
  ];
  return EditorState.create({ doc: code, extensions });
}
