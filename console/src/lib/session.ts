// What the user has in hand: the program, its files, and the run that it became.

import { ApiError, api, sha256, stream, type RunRequest } from "./api";
import type { Phase } from "./layers";
import { Store } from "./store";
import type { Outcome, ProgramError, Result, RunEvent, Screening, Told } from "./types";

export interface DataFile {
  name: string;
  path: string;
  size_bytes: number;
  /** An upload's hash, or the content itself where the browser makes no hashes. */
  upload?: string;
  base64?: string;
}

/** One thing the program wrote or displayed, in the order in which it came. */
export type Piece = { kind: "stdout" | "stderr"; text: string } | { kind: "result"; result: Result };

/** A run as it was watched from here. */
export interface Watched {
  phase: Phase;
  run: string | null;
  code: string;
  pieces: Piece[];
  events: RunEvent[];
  /** Bytes of output that had come, and when, in microseconds since the run was told to begin. */
  output: { at_us: number; bytes: number }[];
  error: ProgramError | null;
  outcome: Outcome | null;
  failure: string | null;
}

interface Session {
  code: string;
  files: DataFile[];
  policy: string;
  backend: string;
  watched: Watched | null;
  /** What screening alone found, for the program as it was then. */
  screened: { code: string; refused: boolean; screening: Screening } | null;
  /** What went wrong outside of a run, for people. */
  trouble: string | null;
  /** Said to a screen reader. */
  status: string;
}

export const FIRST_PROGRAM = `# Drop a CSV on this page and read it from /data, or try this as it is.
print("Hello from the sandbox")
[number**2 for number in range(10)]
`;

export const session = new Store<Session>({
  code: FIRST_PROGRAM,
  files: [],
  policy: "",
  backend: "",
  watched: null,
  screened: null,
  trouble: null,
  status: "",
});

/** Runs that were watched from this tab, with what they told and when it came. */
export const watchedRuns = new Map<string, Watched>();
const KEPT = 50;

export function inWords(error: unknown): string {
  if (error instanceof ApiError) return error.remediation ? `${error.message}; ${error.remediation}` : error.message;
  return error instanceof Error ? error.message : String(error);
}

function request(): RunRequest {
  const { code, files, policy, backend } = session.value;
  return {
    code,
    policy: policy || undefined,
    backend: backend || undefined,
    files: files.map(({ path, upload, base64 }) => (upload ? { path, upload } : { path, base64 })),
    // So that the run shows the same when it is opened again.
    keep_events: true,
  };
}

let stopping: AbortController | null = null;

export const isRunning = (watched: Watched | null): boolean =>
  watched !== null && watched.phase !== "ended" && watched.phase !== "failed";

export async function run(): Promise<void> {
  if (isRunning(session.value.watched)) return;
  const begun = performance.now();
  let now: Watched = {
    phase: "sent",
    run: null,
    code: session.value.code,
    pieces: [],
    events: [],
    output: [],
    error: null,
    outcome: null,
    failure: null,
  };
  const show = (change: Partial<Watched>) => {
    now = { ...now, ...change };
    later(() => session.set({ watched: now }));
  };
  session.set({ watched: now, screened: null, trouble: null, status: "The run has been sent" });
  stopping = new AbortController();
  try {
    await stream(request(), (told) => show(heard(now, told, (performance.now() - begun) * 1000)), stopping.signal);
    if (!now.outcome && !now.failure) show({ phase: "failed", failure: "the server's answer ended before the run did" });
  } catch (error) {
    const aborted = error instanceof DOMException && error.name === "AbortError";
    show({ phase: "failed", failure: aborted ? "stopped: a run whose listener goes is cancelled" : inWords(error) });
  }
  stopping = null;
  if (now.run && now.outcome) keep(now.run, now);
  session.set({ watched: now, status: now.outcome ? `The run has ended: ${now.outcome.ending.cause}` : `The run failed: ${now.failure}` });
}

/** Lines come in bursts: the page is drawn once for each frame of the screen. */
let waiting: (() => void) | null = null;
function later(draw: () => void): void {
  const first = waiting === null;
  waiting = draw;
  if (!first) return;
  const go = () => {
    waiting?.();
    waiting = null;
  };
  // A page that is not seen gets no frames.
  if (document.hidden) setTimeout(go, 50);
  else requestAnimationFrame(go);
}

function keep(id: string, watched: Watched): void {
  watchedRuns.set(id, watched);
  const oldest = watchedRuns.keys().next().value;
  if (watchedRuns.size > KEPT && oldest !== undefined) watchedRuns.delete(oldest);
}

/** What one line of the stream changes. Lists grow in place: a run may tell twenty thousand events. */
function heard(now: Watched, told: Told, at_us: number): Partial<Watched> {
  switch (told.type) {
    case "started":
      return { phase: "screening", run: told.run };
    case "stdout":
    case "stderr": {
      const last = now.pieces.at(-1);
      if (last?.kind === told.type) last.text += told.text;
      else now.pieces.push({ kind: told.type, text: told.text });
      now.output.push({ at_us, bytes: (now.output.at(-1)?.bytes ?? 0) + told.text.length });
      return { phase: "inside" };
    }
    case "result":
      now.pieces.push({ kind: "result", result: told.result });
      return { phase: "inside" };
    case "event":
      now.events.push(told.event);
      return { phase: "inside" };
    case "error":
      return { phase: "inside", error: told.error };
    case "outcome":
      return { phase: "ended", outcome: told.outcome, run: told.outcome.run };
    case "failed":
      return { phase: "failed", failure: told.error.message };
  }
}

/** Stops what runs: a run whose listener goes away is cancelled, one that has a name is told so. */
export async function stop(): Promise<void> {
  const id = session.value.watched?.run;
  try {
    if (id) await api.cancel(id);
    else stopping?.abort();
  } catch {
    stopping?.abort();
  }
}

export async function screen(): Promise<void> {
  session.set({ trouble: null, status: "Screening" });
  try {
    const { code } = session.value;
    const { refused, screening } = await api.scan(request());
    const found = screening.findings.length;
    const status = `${refused ? "Refused" : `Screened: ${screening.verdict}`}, ${found === 1 ? "1 finding" : `${found} findings`}`;
    session.set({ screened: { code, refused, screening }, watched: null, status });
  } catch (error) {
    session.set({ trouble: inWords(error), status: "Screening failed" });
  }
}

/** A name that the server takes for a file's. */
function guestName(name: string): string {
  const plain = name.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^\.+/, "").slice(0, 200);
  return plain || "data";
}

const INLINE_BYTES = 8 << 20;

async function stored(file: File): Promise<Pick<DataFile, "upload" | "base64">> {
  const hash = await sha256(file);
  if (hash) return { upload: (await api.upload(hash, file.name, file)).sha256 };
  if (file.size > INLINE_BYTES) throw new Error("a page without TLS can send files of up to 8 MiB");
  const content = new Uint8Array(await file.arrayBuffer());
  let binary = "";
  for (const byte of content) binary += String.fromCharCode(byte);
  return { base64: btoa(binary) };
}

export async function addFiles(files: Iterable<File>): Promise<void> {
  for (const file of files) {
    const path = `/data/${guestName(file.name)}`;
    try {
      session.set({ status: `Sending ${file.name}`, trouble: null });
      const added: DataFile = { name: file.name, path, size_bytes: file.size, ...(await stored(file)) };
      const others = session.value.files.filter((known) => known.path !== path);
      session.set({ files: [...others, added], status: `${file.name} is at ${path}` });
      if (session.value.code === FIRST_PROGRAM && /\.csv$/i.test(path)) {
        session.set({ code: `import pandas as pd\n\ndata = pd.read_csv("${path}")\nprint(f"{len(data):,} rows")\ndata.describe()\n` });
      }
    } catch (error) {
      session.set({ trouble: `${file.name}: ${inWords(error)}`, status: "" });
    }
  }
}

export function removeFile(path: string): void {
  session.set({ files: session.value.files.filter((file) => file.path !== path) });
}
