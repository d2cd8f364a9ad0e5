// What the API says, as far as the page shows it. Fields are those of docs/outcome.md.

export interface Place {
  line: number;
  column: number;
  end_line: number;
  end_column: number;
}

export interface Finding {
  rule: string;
  layer: "validation" | "analysis";
  severity: string;
  confidence: string;
  message: string;
  reason: string;
  better_way: string | null;
  place: Place | null;
  excerpt: string;
  action: "pass" | "confine" | "refuse";
  chain?: { what: string; place: Place | null }[];
}

export interface Fact {
  value: string;
  certainty: string;
  access?: string;
  place?: Place | null;
}

export interface Screening {
  verdict: "pass" | "confine" | "refuse";
  guarantees: string[];
  skipped: boolean;
  findings: Finding[];
  findings_omitted: number;
  manifest: Record<string, Fact[] | boolean>;
  took_us: number;
}

export interface Representation {
  mime: string;
  size_bytes: number;
  text?: string;
  json?: unknown;
  base64?: string;
}

export interface Result {
  origin: string;
  representations: Representation[];
}

export interface Wall {
  name: string;
  need: "required" | "additional";
  asked: string;
  got: string | null;
  missing: string | null;
  guarantees: string[];
}

export interface Receipt {
  backend: string;
  guest: string;
  walls: Wall[];
}

export interface Artifact {
  path: string;
  size_bytes: number;
  sha256: string;
  href: string;
}

export interface Alert {
  rule: string;
  severity: string;
  message: string;
  at_us: number;
  count: number;
}

/** An event: its own fields are beside these, by its kind. */
export interface RunEvent {
  at_us: number;
  witness: "host" | "guest";
  event: string;
  [field: string]: unknown;
}

/** What the run used at that moment: drawn as curves, and in the timeline only for whoever asks for it. */
export const isMeasured = (event: RunEvent): boolean => event.event === "usage";

export interface ProgramError {
  name: string;
  value: string;
  traceback: string;
  line: number | null;
}

export interface Ending {
  status: string;
  cause: string;
  hint: string | null;
  by?: string;
  reason?: string;
  limit?: string;
  allowed?: number;
  seen?: number;
}

export interface Usage {
  wall_us: number;
  cpu_us: number;
  memory_peak_bytes: number;
  disk_peak_bytes: number;
  disk_peak_files: number;
  open_files_peak: number;
  stdout_bytes: number;
  stderr_bytes: number;
}

/** Ceilings; the word `unlimited` where there is none. */
export type Limits = Record<string, number | string>;

export interface Summary {
  files_read: string[];
  files_written: string[];
  denials: unknown[];
  env_read: string[];
  events: number;
  events_dropped: number;
}

export interface Outcome {
  run: string;
  ending: Ending;
  exit_code: number;
  stdout?: string;
  stderr?: string;
  results?: Result[];
  error?: ProgramError | null;
  artifacts?: Artifact[];
  usage?: Usage;
  limits?: Limits;
  screening?: Screening;
  placement?: { backend: string; reasons: string[] } | null;
  asked?: string[];
  receipt?: Receipt | null;
  summary?: Summary;
  alerts?: Alert[];
}

export interface RunRow {
  run: string;
  state: string;
  created_ms: number;
  ended_ms: number | null;
  about: { policy?: string; program?: { name: string; sha256: string }; inputs?: { path: string; sha256: string; size_bytes: number }[] } | null;
  brief: { status: string; exit_code: number; backend: string | null; alerts: number; denials: number } | null;
}

export interface ShortReceipt {
  run: string;
  created_ms: number;
  ended_ms: number;
  policy: string;
  program: { name: string; sha256: string };
  inputs: { path: string; sha256: string; size_bytes: number }[];
  stdout_sha256: string;
  stderr_sha256: string;
}

export interface Policy {
  name: string;
  description: string;
  screen: string;
  limits: Limits;
  clock_granularity_ms: number;
  require: string[];
  attacked: string;
}

export interface Offer {
  backend: string;
  usable: "yes" | { no: { why: string; fix: string } };
  languages: string[];
  guarantees: string[];
  notes: string[];
}

export interface KeyInfo {
  id: string;
  tenant: string;
  name: string;
  policy: string | null;
  backends: string[];
  scopes: string[];
  running: number | null;
  per_minute: number | null;
  created_ms: number;
  expires_ms: number | null;
  revoked_ms: number | null;
}

export interface AttackMatrix {
  attacks: { attack: string; threat: string; tries: string }[];
  backends: {
    backend: string;
    standing: "stood" | "fell" | "none";
    says: string;
    made_at: string | null;
    cells: { attack: string; verdict: string; wall: string | null; control: string; bits_per_second: number | null }[];
  }[];
}

export interface Upload {
  sha256: string;
  name: string;
  size_bytes: number;
}

/** One line of a run's stream. */
export type Told =
  | { type: "started"; run: string }
  | { type: "stdout" | "stderr"; text: string }
  | { type: "result"; result: Result }
  | { type: "error"; error: ProgramError }
  | { type: "event"; event: RunEvent }
  | { type: "outcome"; outcome: Outcome }
  | { type: "failed"; error: { message: string; remediation?: string } };
