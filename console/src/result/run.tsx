// A run: how it ended, its six layers, and everything that is known of it.

import { bytes, micros } from "../lib/format";
import { type Layer, layers } from "../lib/layers";
import { type Watched, isRunning } from "../lib/session";
import type { Outcome, RunEvent } from "../lib/types";
import { Findings } from "./findings";
import { Output, storedPieces } from "./output";
import { type Tab, Tabs, Word } from "./parts";
import { ReceiptView } from "./receipt";
import { Resources } from "./resources";
import { Timeline } from "./timeline";

const SAID = { waits: "waiting", works: "at work", holds: "passed", notes: "with remarks", stops: "stopped the run", unreached: "not reached" } as const;

export function Layers({ states }: { states: Layer[] }) {
  return (
    <ol class="layers" aria-label="The six layers">
      {states.map((layer, at) => (
        <li key={layer.name} class={layer.standing} data-standing={layer.standing} title={layer.text}>
          <span class="layer-name">
            <span class="layer-number" aria-hidden="true">
              {at + 1}
            </span>
            {layer.name}
          </span>
          <span class="layer-word">
            {layer.word || " "}
            <span class="unseen"> {SAID[layer.standing]}</span>
          </span>
          <span class="layer-text">{layer.text || " "}</span>
        </li>
      ))}
    </ol>
  );
}

export function watchedLayers(watched: Watched | null): Layer[] {
  return layers(watched?.phase ?? "none", watched?.outcome ?? null, watched?.code ?? null, watched?.events ?? null);
}

const KIND: Record<string, string> = { exited: "holds", cancelled: "notes", refused: "stops", over: "stops", denied: "stops", signalled: "stops", faulted: "stops" };

export function statusKind(status: string, exitCode: number): string {
  return status === "exited" && exitCode !== 0 ? "notes" : (KIND[status] ?? "quiet");
}

export function EndingLine({ outcome }: { outcome: Outcome }) {
  const { ending, usage } = outcome;
  return (
    <p class="ending">
      <Word kind={statusKind(ending.status, outcome.exit_code)}>{ending.status}</Word>
      <span>{ending.cause}</span>
      <span class="quiet">{usage && outcome.receipt ? `${micros(usage.wall_us)}, ${bytes(usage.memory_peak_bytes)}` : ""}</span>
      {ending.hint ? <span class="quiet hint">What helps: {ending.hint}</span> : null}
    </p>
  );
}

function Alerts({ outcome }: { outcome: Outcome }) {
  const alerts = outcome.alerts ?? [];
  if (alerts.length === 0) return null;
  return (
    <ul class="alerts" aria-label="Alerts of this run">
      {alerts.map((alert) => (
        <li key={alert.rule}>
          <Word kind={alert.severity === "low" ? "notes" : "stops"}>{alert.severity}</Word> {alert.message} <code>{alert.rule}</code>
          {alert.count > 1 ? <span class="quiet"> {alert.count} times</span> : null}
        </li>
      ))}
    </ul>
  );
}

interface Known {
  watched: Watched | null;
  outcome: Outcome | null;
  /** What happened in it; null where nobody has kept that. */
  events: RunEvent[] | null;
  goTo: ((line: number) => void) | null;
}

/** A run by its outcome, its events, and by what was watched of it where it was watched from this tab. */
export function RunResult({ watched, outcome, events, goTo }: Known) {
  const running = isRunning(watched);
  const pieces = watched?.pieces ?? (outcome ? storedPieces(outcome) : []);
  const findings = outcome?.screening?.findings.length ?? 0;
  const tabs: Tab[] = [
    { id: "output", label: "Output", body: () => <Output pieces={pieces} running={running} artifacts={outcome?.artifacts ?? []} /> },
    ...(outcome?.screening ? [{ id: "findings", label: "Findings", badge: findings, body: () => outcome.screening && <Findings screening={outcome.screening} goTo={goTo} /> }] : []),
    { id: "timeline", label: "Timeline", body: () => <Timeline events={events} outcome={outcome} /> },
    ...(outcome ? [{ id: "resources", label: "Resources", body: () => <Resources outcome={outcome} events={events} output={watched?.output ?? null} /> }] : []),
    ...(outcome ? [{ id: "receipt", label: "Receipt", body: () => <ReceiptView outcome={outcome} /> }] : []),
  ];
  return (
    <div class="run">
      {outcome ? <EndingLine outcome={outcome} /> : null}
      {running ? (
        <p class="ending">
          <Word kind="quiet">running</Word>
          <span>{watched?.run ?? "waits for its turn"}</span>
        </p>
      ) : null}
      {watched?.failure ? (
        <p class="trouble" role="alert">
          {watched.failure}
        </p>
      ) : null}
      {outcome ? <Alerts outcome={outcome} /> : null}
      <Tabs name="What is known of this run" tabs={tabs} />
    </div>
  );
}

