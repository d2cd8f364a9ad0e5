// The six layers as one run has passed them. Pure: from what is known of a run to six states.

import { bytes, count, micros } from "./format";
import type { Outcome, RunEvent, Wall } from "./types";

export const NAMES = ["Validation", "Analysis", "Isolation", "Limits", "Network", "Observation"] as const;

/** How a layer stands; `waits` is not begun, `works` is now. */
export type Standing = "waits" | "works" | "holds" | "notes" | "stops" | "unreached";

export interface Layer {
  name: string;
  standing: Standing;
  word: string;
  text: string;
}

/** How far a run is known to be. */
export type Phase = "none" | "sent" | "screening" | "inside" | "ended" | "failed";

export function layers(phase: Phase, outcome: Outcome | null, code: string | null, events: RunEvent[] | null): Layer[] {
  if (outcome?.ending && phase === "ended") return ended(outcome, code, events);
  return NAMES.map((name, at) => ({ name, ...going(phase, at) }));
}

/** While it runs: that something of the program is heard says that it was let in. */
function going(phase: Phase, at: number): Omit<Layer, "name"> {
  const waits = { standing: "waits", word: "", text: "" } as const;
  switch (phase) {
    case "sent":
      return at === 0 ? { standing: "works", word: "queued", text: "waits for its turn" } : waits;
    case "screening":
      return at < 2 ? { standing: "works", word: "screens", text: "reads the program" } : waits;
    case "inside":
      if (at < 2) return { standing: "holds", word: "passed", text: "" };
      if (at === 2) return { standing: "holds", word: "stands", text: "the program runs inside" };
      return { standing: "works", word: ["holds", "closed", "watches"][at - 3] ?? "", text: "" };
    default:
      return waits;
  }
}

function ended(outcome: Outcome, code: string | null, events: RunEvent[] | null): Layer[] {
  const states = [validation(outcome, code), analysis(outcome), isolation(outcome), limits(outcome), network(outcome, events), observation(outcome)];
  return states.map((state, at) => ({ name: NAMES[at] ?? "", ...state }));
}

type State = Omit<Layer, "name">;
const UNREACHED: State = { standing: "unreached", word: "not reached", text: "" };

function validation({ screening }: Outcome, code: string | null): State {
  if (!screening) return UNREACHED;
  if (screening.skipped) return { standing: "notes", word: "skipped", text: "by the policy" };
  const stops = screening.findings.find((finding) => finding.layer === "validation" && finding.action === "refuse");
  if (stops) return { standing: "stops", word: "refused", text: stops.message };
  const size = code === null ? "" : `${bytes(new TextEncoder().encode(code).length)}, ${count(code.replace(/\n$/, "").split("\n").length, "line")}`;
  return { standing: "holds", word: "passed", text: size };
}

function analysis({ screening }: Outcome): State {
  if (!screening) return UNREACHED;
  if (screening.skipped) return { standing: "notes", word: "skipped", text: "by the policy" };
  const found = screening.findings.length === 0 ? "nothing found" : count(screening.findings.length, "finding");
  const text = `${found}, ${micros(screening.took_us)}`;
  if (screening.verdict === "refuse") return { standing: "stops", word: "refused", text };
  return { standing: screening.verdict === "confine" ? "notes" : "holds", word: screening.verdict === "confine" ? "confined" : "passed", text };
}

/** The guarantees that were asked for and for which no wall stands. */
export function unmet(outcome: Outcome): string[] {
  const granted = new Set((outcome.receipt?.walls ?? []).filter(stands).flatMap((wall) => wall.guarantees));
  return (outcome.asked ?? []).filter((guarantee) => !granted.has(guarantee));
}

export const stands = (wall: Wall): boolean => wall.missing === null;

function isolation(outcome: Outcome): State {
  const { receipt } = outcome;
  if (!receipt) return UNREACHED;
  const text = `${receipt.backend}, ${receipt.walls.filter(stands).length} of ${receipt.walls.length} walls`;
  return unmet(outcome).length === 0 ? { standing: "holds", word: "stands", text } : { standing: "stops", word: "missing", text };
}

function limits({ receipt, usage, ending }: Outcome): State {
  if (!receipt || !usage) return UNREACHED;
  const text = `${bytes(usage.memory_peak_bytes)}, CPU ${micros(usage.cpu_us)}`;
  return ending.status === "over" ? { standing: "stops", word: "over", text: ending.cause } : { standing: "holds", word: "within", text };
}

function network({ receipt }: Outcome, events: RunEvent[] | null): State {
  if (!receipt) return UNREACHED;
  const attempts = events?.filter((event) => event.event === "network").length;
  const text = attempts === undefined ? "" : count(attempts, "attempt");
  const absent = receipt.walls.some((wall) => stands(wall) && wall.guarantees.includes("network_absent"));
  return absent ? { standing: attempts ? "notes" : "holds", word: "absent", text } : { standing: "notes", word: "unknown", text };
}

function observation({ receipt, summary, alerts = [] }: Outcome): State {
  if (!receipt || !summary) return UNREACHED;
  const text = `${count(summary.events, "event")}, ${count(summary.denials.length, "denial")}`;
  return alerts.length === 0 ? { standing: "holds", word: "quiet", text } : { standing: "notes", word: count(alerts.length, "alert"), text };
}
