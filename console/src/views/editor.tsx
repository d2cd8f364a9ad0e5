// The editor's place in the page. Its text, marks and undo outlive the view.

import { EditorView } from "@codemirror/view";
import { useEffect, useRef } from "preact/hooks";
import { type Remarks, editorState, goTo, showRemarks } from "../lib/editor";
import { run, session } from "../lib/session";

let view: EditorView | null = null;

function made(): EditorView {
  view ??= new EditorView({ state: editorState(session.value.code, (code) => session.set({ code }), () => void run()) });
  return view;
}

export function Editor({ remarks, code }: { remarks: Remarks | null; code: string }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    place.current?.append(made().dom);
  }, []);
  // A text that did not come from the editor, such as a first program for a file that was dropped. What was drawn may be older than
  // what has been typed since, so the session is asked, which the editor tells at once.
  useEffect(() => {
    const editor = made();
    const insert = session.value.code;
    if (editor.state.doc.toString() !== insert) editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert } });
  }, [code]);
  useEffect(() => showRemarks(made(), remarks ?? { findings: [], error: null }), [remarks]);
  return <div class="editor" ref={place} />;
}

export function goToLine(line: number): void {
  goTo(made(), line);
}
