// The API of the server that the page came from. The key is kept for as long as the tab is open.

import type { AttackMatrix, KeyInfo, Offer, Outcome, Policy, RunEvent, RunRow, Screening, ShortReceipt, Told, Upload } from "./types";

const KEY = "casemate.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value: string) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An error of the server's, or of the way to it. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly remediation = "",
  ) {
    super(message);
  }
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.get()) headers.set("X-API-Key", key.get());
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer", 0, "see whether it still runs");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const remediation = response.status === 401 ? "type yours in under Keys and policies" : (body.remediation ?? "");
  throw new ApiError(body.message ?? response.statusText, response.status, remediation);
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await ask(path, init)).json();
}

const lines = <T>(text: string): T[] =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));

export interface RunRequest {
  code: string;
  name?: string;
  policy?: string;
  backend?: string;
  files: { path: string; upload?: string; base64?: string }[];
  keep_events?: boolean;
}

export const api = {
  policies: () => json<{ in_force: Policy; presets: Policy[] }>("/v1/policies"),
  backends: () => json<{ backends: Offer[] }>("/v1/backends"),
  attacks: () => json<AttackMatrix>("/v1/attacks"),
  keys: () => json<{ tenant: string; key: string | null; keys: KeyInfo[] }>("/v1/keys"),
  runs: (after?: string) => json<{ runs: RunRow[]; next: string | null }>(`/v1/runs?limit=100${after ? `&after=${after}` : ""}`),
  run: (id: string) => json<Outcome>(`/v1/runs/${encodeURIComponent(id)}`),
  signedReceipt: (id: string) => json<Record<string, unknown>>(`/v1/runs/${encodeURIComponent(id)}/receipt/signed`),
  receiptKey: () => json<{ algorithm: string; public_key: string | null }>("/v1/receipts/key"),
  receipt: (id: string) => json<ShortReceipt>(`/v1/runs/${encodeURIComponent(id)}/receipt`),
  /** What happened in a run; null where the server has not kept it. */
  events: async (id: string): Promise<RunEvent[] | null> => {
    try {
      return lines(await (await ask(`/v1/runs/${encodeURIComponent(id)}/events`)).text());
    } catch (error) {
      if (error instanceof ApiError && error.status === 409) return null;
      throw error;
    }
  },
  forget: (id: string) => ask(`/v1/runs/${encodeURIComponent(id)}`, { method: "DELETE" }),
  cancel: (id: string) => ask(`/v1/runs/${encodeURIComponent(id)}/cancel`, { method: "POST" }),
  scan: (request: RunRequest) => json<{ refused: boolean; screening: Screening }>("/v1/scans", { method: "POST", body: JSON.stringify(request) }),
  artifact: async (href: string) => (await ask(href)).blob(),
  upload: (sha256: string, name: string, content: Blob) =>
    json<Upload>(`/v1/uploads/${sha256}?name=${encodeURIComponent(name)}`, { method: "PUT", body: content }),
};

/** Runs a program and tells each line as it comes. */
export async function stream(request: RunRequest, hear: (told: Told) => void, signal: AbortSignal): Promise<void> {
  const response = await ask("/v1/runs", {
    method: "POST",
    headers: { Accept: "application/x-ndjson" },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.body) throw new ApiError("the server's answer is empty", response.status);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line) hear(JSON.parse(line));
  }
  if (rest.trim()) hear(JSON.parse(rest));
}

/** SHA-256 in hexadecimal; null where the browser has it not, which is on a page that came without TLS from elsewhere. */
export async function sha256(content: Blob): Promise<string | null> {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await content.arrayBuffer()));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
