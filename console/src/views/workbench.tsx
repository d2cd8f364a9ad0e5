// The first view: a program, its files, Run, and what comes of it.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api } from "../lib/api";
import { bytes } from "../lib/format";
import { layers } from "../lib/layers";
import { addFiles, isRunning, removeFile, run, screen, session, stop } from "../lib/session";
import { useStore } from "../lib/store";
import type { Offer, Outcome } from "../lib/types";
import { Findings } from "../result/findings";
import { Trouble, Word, useAsked } from "../result/parts";
import { Layers, RunResult, watchedLayers } from "../result/run";
import { Editor, goToLine } from "./editor";

export function Workbench({ keyed }: { keyed: number }) {
  const { watched, screened, trouble, code } = useStore(session);
  const outcome = watched?.outcome ?? null;
  const remarks = useMemo(() => {
    if (screened?.code === code) return { findings: screened.screening.findings, error: null };
    if (watched && watched.code === code) return { findings: outcome?.screening?.findings ?? [], error: watched.error };
    return null;
  }, [screened, watched?.error, outcome, code]);
  const states = screened
    ? layers("ended", { run: "", exit_code: 0, ending: { status: "screened", cause: "", hint: null }, screening: screened.screening } as Outcome, screened.code, null)
    : watchedLayers(watched);
  return (
    <Drop>
      <Layers states={states} />
      <div class="bench">
        <section class="left" aria-label="Program">
          <Controls keyed={keyed} running={isRunning(watched)} />
          <Trouble text={trouble} />
          <Editor remarks={remarks} code={code} />
          <p id="editor-help" class="help quiet">
            <kbd>Ctrl</kbd>+<kbd>Enter</kbd> runs, <kbd>Ctrl</kbd>+<kbd>]</kbd> indents; <kbd>Tab</kbd> leaves the editor.
          </p>
          <Files />
        </section>
        <section class="right" aria-label="Result">
          {screened ? (
            <div class="run">
              <p class="ending">
                <Word kind={screened.refused ? "stops" : screened.screening.verdict === "confine" ? "notes" : "holds"}>{screened.refused ? "refused" : screened.screening.verdict}</Word>
                <span>Screened only; nothing was run.</span>
              </p>
              <Findings screening={screened.screening} goTo={goToLine} />
            </div>
          ) : watched ? (
            <RunResult key={watched.run ?? "new"} watched={watched} outcome={outcome} events={watched.events} goTo={goToLine} />
          ) : (
            <Welcome />
          )}
        </section>
      </div>
    </Drop>
  );
}

function Welcome() {
  return (
    <div class="welcome">
      <h2>Nothing has been run yet</h2>
      <p>
        A run passes six layers. The first two read the program, the third builds the walls, the last three hold while it runs. Each lights up as the run passes it, and the receipt
        says afterwards which walls were asked for and which stood.
      </p>
    </div>
  );
}

/** Files may be dropped anywhere in the view. */
function Drop({ children }: { children: preact.ComponentChildren }) {
  const [over, setOver] = useState(0);
  const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  return (
    <div
      class={over > 0 ? "view drop" : "view"}
      onDragEnter={(event) => hasFiles(event) && setOver((depth) => depth + 1)}
      onDragLeave={(event) => hasFiles(event) && setOver((depth) => Math.max(depth - 1, 0))}
      onDragOver={(event) => hasFiles(event) && event.preventDefault()}
      onDrop={(event) => {
        if (!hasFiles(event)) return;
        event.preventDefault();
        setOver(0);
        void addFiles(event.dataTransfer?.files ?? []);
      }}
    >
      {children}
    </div>
  );
}

function usable(offer: Offer): boolean {
  return offer.usable === "yes" && offer.languages.includes("python");
}

function Controls({ keyed, running }: { keyed: number; running: boolean }) {
  const { policy, backend } = useStore(session);
  const policies = useAsked(api.policies, [keyed]);
  const backends = useAsked(api.backends, [keyed]);
  const names = policies.value?.presets.map((preset) => preset.name) ?? [];
  const inForce = policies.value?.in_force.name;
  return (
    <>
      <div class="bar controls">
        <label>
          Policy
          <select value={policy} onChange={(change) => session.set({ policy: change.currentTarget.value })}>
            <option value="">{inForce ?? "in force"}</option>
            {names
              .filter((name) => name !== inForce)
              .map((name) => (
                <option key={name} value={name}>
                  no wider than {name}
                </option>
              ))}
          </select>
        </label>
        <label>
          Backend
          <select value={backend} onChange={(change) => session.set({ backend: change.currentTarget.value })}>
            <option value="">auto</option>
            {backends.value?.backends.map((offer) => (
              <option key={offer.backend} value={offer.backend} disabled={!usable(offer)}>
                {offer.backend}
                {usable(offer) ? "" : " (not here)"}
              </option>
            ))}
          </select>
        </label>
        <span class="grow" />
        <button type="button" onClick={() => void screen()} disabled={running}>
          Screen
        </button>
        {running ? (
          <button type="button" class="stop" onClick={() => void stop()}>
            Stop
          </button>
        ) : (
          <button type="button" class="go" aria-keyshortcuts="Control+Enter" onClick={() => void run()}>
            Run
          </button>
        )}
      </div>
      <Trouble text={policies.error} />
    </>
  );
}

function Files() {
  const { files } = useStore(session);
  const chooser = useRef<HTMLInputElement>(null);
  return (
    <section class="inputs" aria-label="Files for the program">
      <div class="well">
        <button type="button" onClick={() => chooser.current?.click()}>
          Add files
        </button>
        <span class="quiet">{files.length === 0 ? "or drop a CSV anywhere; the program finds it read-only under /data" : "read-only in the sandbox"}</span>
        <input
          ref={chooser}
          type="file"
          multiple
          hidden
          aria-label="Files for the program"
          onChange={(change) => {
            void addFiles([...(change.currentTarget.files ?? [])]);
            change.currentTarget.value = "";
          }}
        />
      </div>
      <ul>
        {files.map((file) => (
          <li key={file.path}>
            <code>{file.path}</code>
            <span class="quiet">{bytes(file.size_bytes)}</span>
            <button type="button" class="link" aria-label={`Remove ${file.path}`} onClick={() => removeFile(file.path)}>
              remove
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Ctrl+Enter runs wherever the focus is. */
export function useRunKey(): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.defaultPrevented) return;
      event.preventDefault();
      void run();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}
