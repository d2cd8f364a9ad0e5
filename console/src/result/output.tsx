// What the program wrote, displayed and left.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api } from "../lib/api";
import { CHART, type Chart } from "../lib/charts";
import { bytes } from "../lib/format";
import { harmless } from "../lib/guest";
import { type Piece, inWords } from "../lib/session";
import type { Artifact, Outcome, Representation, Result } from "../lib/types";
import { Figure } from "./chart";
import { Trouble } from "./parts";
import { TABLE, Table, type TableData } from "./table";

/** What the server kept of a run's output: the streams each whole, and then what was displayed. */
export function storedPieces(outcome: Outcome): Piece[] {
  const pieces: Piece[] = [];
  if (outcome.stdout) pieces.push({ kind: "stdout", text: outcome.stdout });
  if (outcome.stderr) pieces.push({ kind: "stderr", text: outcome.stderr });
  for (const result of outcome.results ?? []) pieces.push({ kind: "result", result });
  return pieces;
}

export function Output({ pieces, running, artifacts }: { pieces: Piece[]; running: boolean; artifacts: Artifact[] }) {
  const log = useRef<HTMLDivElement>(null);
  const many = pieces.length;
  // What comes is followed, unless the reader has gone back.
  useEffect(() => {
    const panel = log.current?.closest(".tab-panel");
    if (running && panel && panel.scrollHeight - panel.scrollTop - panel.clientHeight < NEAR) panel.scrollTop = panel.scrollHeight;
  });
  if (many === 0 && artifacts.length === 0) {
    return <p class="quiet empty">{running ? "Nothing has been written yet." : "The program wrote nothing and displayed nothing."}</p>;
  }
  return (
    <div class="output">
      <div ref={log} role="log" aria-label="Output" aria-live="polite" aria-busy={running}>
        {pieces.map((piece, at) =>
          piece.kind === "result" ? (
            <Displayed key={at} result={piece.result} />
          ) : (
            <pre key={at} class={piece.kind}>
              {piece.text}
            </pre>
          ),
        )}
      </div>
      {artifacts.length > 0 ? <Files artifacts={artifacts} shown={!pieces.some(isPicture)} /> : null}
    </div>
  );
}

/** How far from its end, in pixels, a reader still follows. */
const NEAR = 400;
const PICTURES = ["image/png", "image/jpeg", "image/webp", "image/gif"];

const isPicture = (piece: Piece): boolean => piece.kind === "result" && piece.result.representations.some(({ mime }) => PICTURES.includes(mime));

/** The richest form that the page can show safely. */
function Displayed({ result }: { result: Result }) {
  const form = (...mimes: string[]): Representation | undefined => result.representations.find(({ mime }) => mimes.includes(mime));
  const [table, chart, picture] = [form(TABLE), form(CHART), form(...PICTURES)];
  const text = form("text/plain")?.text ?? "";
  if (table?.json) return <Table data={table.json as TableData} />;
  if (picture?.base64 || chart?.json) {
    const source = picture?.base64 ? `data:${picture.mime};base64,${picture.base64}` : null;
    return <Figure picture={source} chart={(chart?.json as Chart | undefined) ?? null} text={text} />;
  }
  const [svg, html] = [form("image/svg+xml")?.text, form("text/html")?.text];
  if (svg !== undefined) return <Guest markup={svg} kind="svg" />;
  if (html !== undefined) return <Guest markup={html} kind="html" />;
  const json = form("application/json")?.json;
  if (json !== undefined) return <pre class="shown">{JSON.stringify(json, null, 2)}</pre>;
  const other = form("text/markdown", "text/latex")?.text ?? text;
  return <pre class="shown">{other || `a result of ${result.representations.map(({ mime }) => mime).join(", ")}`}</pre>;
}

function Guest({ markup, kind }: { markup: string; kind: "html" | "svg" }) {
  const made = useMemo(() => harmless(markup, kind), [markup, kind]);
  return (
    <figure class="guest">
      <iframe sandbox="" srcdoc={made.document} height={made.height} title={`${kind.toUpperCase()} that the program displayed`} referrerpolicy="no-referrer" />
      <figcaption>
        {kind.toUpperCase()} of the program's, in a frame without scripts and without the network
        {made.cut ? "; what could act was taken out" : ""}
      </figcaption>
    </figure>
  );
}

/** A picture that a program left, which is all there is of a figure that it saved and did not display. */
function Preview({ artifact, shown }: { artifact: Artifact; shown: boolean }) {
  const [open, setOpen] = useState(shown);
  const [source, setSource] = useState("");
  useEffect(() => {
    if (!open) return;
    let [url, gone] = ["", false];
    api.artifact(artifact.href).then(
      (content) => {
        if (gone || !PICTURES.includes(content.type)) return;
        url = URL.createObjectURL(content);
        setSource(url);
      },
      () => setOpen(false),
    );
    return () => {
      gone = true;
      URL.revokeObjectURL(url);
    };
  }, [artifact.href, open]);
  return (
    <>
      <button type="button" class="link" aria-expanded={open} onClick={() => setOpen(!open)}>
        {open ? "hide" : "show"}
      </button>
      {open && source ? <img src={source} alt={`Picture ${artifact.path}`} /> : null}
    </>
  );
}

const SHOWN_BYTES = 8 << 20;

function Files({ artifacts, shown }: { artifacts: Artifact[]; shown: boolean }) {
  const [trouble, setTrouble] = useState<string | null>(null);
  const save = async (artifact: Artifact) => {
    setTrouble(null);
    try {
      const url = URL.createObjectURL(await api.artifact(artifact.href));
      const link = document.createElement("a");
      link.href = url;
      link.download = artifact.path.split("/").at(-1) ?? "file";
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (error) {
      setTrouble(inWords(error));
    }
  };
  return (
    <section class="files" aria-label="Files that the program left">
      <h3>Files</h3>
      <Trouble text={trouble} />
      <ul>
        {artifacts.map((artifact) => (
          <li key={artifact.href}>
            <button type="button" class="link" onClick={() => save(artifact)}>
              {artifact.path}
            </button>
            <span class="quiet">{bytes(artifact.size_bytes)}</span>
            <code class="quiet hash" title={`SHA-256 ${artifact.sha256}`}>
              {artifact.sha256.slice(0, 12)}
            </code>
            {/\.(png|jpe?g|webp)$/i.test(artifact.path) && artifact.size_bytes <= SHOWN_BYTES ? <Preview artifact={artifact} shown={shown} /> : null}
          </li>
        ))}
      </ul>
    </section>
  );
}
