// Runs that were, to be searched, and one of them whole.

import { useEffect, useMemo, useState } from "preact/hooks";
import { api } from "../lib/api";
import { millis, moment } from "../lib/format";
import { layers } from "../lib/layers";
import { inWords, watchedRuns } from "../lib/session";
import type { RunRow } from "../lib/types";
import { Scroll, Trouble, Word, useAsked } from "../result/parts";
import { Layers, RunResult, statusKind } from "../result/run";

/** The tenant's runs, a page at a time. */
export function useRuns(): { rows: RunRow[]; more: (() => void) | null; error: string | null; loading: boolean } {
  const [rows, setRows] = useState<RunRow[]>([]);
  const [next, setNext] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [loading, setLoading] = useState(true);
  const load = async (after?: string) => {
    setLoading(true);
    try {
      const page = await api.runs(after);
      setRows((before) => (after ? [...before, ...page.runs] : page.runs));
      setNext(page.next);
    } catch (failure) {
      setError(inWords(failure));
    }
    setLoading(false);
  };
  useEffect(() => void load(), []);
  return { rows, more: next ? () => void load(next) : null, error, loading };
}

/** Everything that is said of a run in its row; each word that is sought must be in it. */
function fits(row: RunRow, sought: string): boolean {
  const inputs = row.about?.inputs?.map((input) => `${input.path} ${input.sha256}`) ?? [];
  const text = [row.run, row.brief?.status ?? row.state, row.brief?.backend, row.about?.policy, row.about?.program?.name, row.about?.program?.sha256, moment(row.created_ms), ...inputs]
    .join(" ")
    .toLowerCase();
  return sought
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

export function History() {
  const { rows, more, error, loading } = useRuns();
  const [sought, setSought] = useState("");
  const [status, setStatus] = useState("");
  const statuses = [...new Set(rows.map((row) => row.brief?.status ?? row.state))].sort();
  const shown = useMemo(() => rows.filter((row) => fits(row, sought) && (!status || (row.brief?.status ?? row.state) === status)), [rows, sought, status]);
  return (
    <div class="view page">
      <h2>History</h2>
      <div class="bar">
        <label class="grow">
          Search
          <input type="search" value={sought} placeholder="run, status, backend, policy, file, SHA-256" onInput={(input) => setSought(input.currentTarget.value)} />
        </label>
        <label>
          Status
          <select value={status} onChange={(change) => setStatus(change.currentTarget.value)}>
            <option value="">all</option>
            {statuses.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      </div>
      <Trouble text={error} />
      <p class="quiet" role="status">
        {loading ? "Loading…" : `${shown.length} of ${rows.length} runs${more ? ", older ones not loaded" : ""}`}
      </p>
      {shown.length > 0 ? <Rows rows={shown} /> : null}
      {more ? (
        <button type="button" onClick={more} disabled={loading}>
          Load older runs
        </button>
      ) : null}
    </div>
  );
}

function Rows({ rows }: { rows: RunRow[] }) {
  return (
    <Scroll label="Runs">
      <table class="data runs">
        <thead>
          <tr>
            <th scope="col">when</th>
            <th scope="col">run</th>
            <th scope="col">ended</th>
            <th scope="col" class="number">
              took
            </th>
            <th scope="col">backend</th>
            <th scope="col">policy</th>
            <th scope="col">files</th>
            <th scope="col">remarks</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <Row key={row.run} row={row} />
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Row({ row }: { row: RunRow }) {
  const { brief, about } = row;
  const remarks = [brief?.alerts ? `${brief.alerts} alerts` : "", brief?.denials ? `${brief.denials} denials` : ""].filter(Boolean).join(", ");
  const inputs = about?.inputs?.map((input) => input.path.replace("/data/", "")).join(", ");
  return (
    <tr>
      <td class="when">{moment(row.created_ms)}</td>
      <td>
        <a href={`#/runs/${row.run}`}>{row.run}</a>
      </td>
      <td>
        <Word kind={brief ? statusKind(brief.status, brief.exit_code) : "quiet"}>{brief?.status ?? row.state}</Word>
        {brief?.status === "exited" && brief.exit_code !== 0 ? <span class="quiet"> {brief.exit_code}</span> : null}
      </td>
      <td class="number">{row.ended_ms === null ? "–" : millis(row.ended_ms - row.created_ms)}</td>
      <td>{brief?.backend || "–"}</td>
      <td>{about?.policy ?? "–"}</td>
      <td class="quiet">{inputs || "–"}</td>
      <td>{remarks || "–"}</td>
    </tr>
  );
}

export function OneRun({ id }: { id: string }) {
  const { value: outcome, error } = useAsked(() => api.run(id), [id]);
  const [gone, setGone] = useState<string | null>(null);
  const watched = watchedRuns.get(id) ?? null;
  const { value: kept, error: unkept } = useAsked(() => (watched ? Promise.resolve(null) : api.events(id)), [id]);
  const events = watched?.events ?? kept ?? null;
  const forget = async () => {
    if (!confirm("Forget this run and the files that it left?")) return;
    try {
      await api.forget(id);
      location.hash = "#/history";
    } catch (failure) {
      setGone(inWords(failure));
    }
  };
  const ended = outcome?.ending ? outcome : null;
  return (
    <div class="view page one">
      <div class="bar">
        <h2>
          <a href="#/history">History</a> / <code>{id}</code>
        </h2>
        <span class="grow" />
        <button type="button" onClick={() => void forget()} disabled={!ended}>
          Forget
        </button>
      </div>
      <Trouble text={error ?? gone ?? unkept} />
      {ended ? <Layers states={layers("ended", ended, watched?.code ?? null, events)} /> : null}
      {ended ? <RunResult watched={watched} outcome={ended} events={events} goTo={null} /> : null}
      {outcome && !ended ? <p class="quiet">This run has not ended, or nobody knows how it did.</p> : null}
    </div>
  );
}
