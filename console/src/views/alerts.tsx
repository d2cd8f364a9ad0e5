// What in the latest runs asks for somebody's attention.

import { useEffect, useState } from "preact/hooks";
import { api } from "../lib/api";
import { moment } from "../lib/format";
import { inWords } from "../lib/session";
import type { Outcome, RunRow } from "../lib/types";
import { Scroll, Trouble, Word } from "../result/parts";
import { useRuns } from "./history";

interface Remark {
  run: string;
  at: number;
  kind: "stops" | "notes";
  word: string;
  rule: string;
  text: string;
}

const GRAVE = ["over", "denied", "refused", "signalled", "faulted"];

/** Runs of which something may be told; one that ended under an older server has no brief, and is read to know. */
const remarkable = ({ brief, state }: RunRow): boolean =>
  brief ? brief.alerts > 0 || brief.denials > 0 || GRAVE.includes(brief.status) : state === "ended";

function remarks(row: RunRow, outcome: Outcome): Remark[] {
  const base = { run: row.run, at: row.created_ms };
  const { ending, alerts = [], summary } = outcome;
  const all: Remark[] = alerts.map((alert) => ({
    ...base,
    kind: alert.severity === "low" ? "notes" : "stops",
    word: `${alert.severity} alert`,
    rule: alert.rule,
    text: `${alert.message}${alert.count > 1 ? `, ${alert.count} times` : ""}`,
  }));
  if (GRAVE.includes(ending.status)) {
    all.push({ ...base, kind: "stops", word: ending.status, rule: ending.limit ?? ending.by ?? "", text: ending.cause });
  }
  for (const denial of (summary?.denials ?? []).slice(0, 20)) {
    all.push({ ...base, kind: "notes", word: "denied call", rule: "", text: String(denial) });
  }
  return all;
}

const MOST = 60;
const AT_ONCE = 4;

export function AlertsView() {
  const { rows, error, loading } = useRuns();
  const [found, setFound] = useState<Remark[]>([]);
  const [trouble, setTrouble] = useState<string | null>(null);
  const wanted = rows.filter(remarkable);
  useEffect(() => {
    let gone = false;
    const read = async () => {
      const all: Remark[] = [];
      for (let at = 0; at < Math.min(wanted.length, MOST) && !gone; at += AT_ONCE) {
        const some = wanted.slice(at, at + AT_ONCE);
        const outcomes = await Promise.all(some.map((row) => api.run(row.run)));
        outcomes.forEach((outcome, which) => some[which] && all.push(...remarks(some[which], outcome)));
        if (!gone) setFound([...all]);
      }
    };
    read().catch((failure: unknown) => setTrouble(inWords(failure)));
    return () => void (gone = true);
  }, [rows]);
  return (
    <div class="view page">
      <h2>Alerts</h2>
      <p class="quiet">
        Rules that matched, limits that were reached, refusals and denied calls, of the latest {rows.length} runs
        {wanted.length > MOST ? `; of ${wanted.length} that may have remarks the latest ${MOST} are shown` : ""}.
      </p>
      <Trouble text={error ?? trouble} />
      {!loading && wanted.length === 0 ? <p class="empty">Nothing: no rule matched, nothing was refused and no limit was reached.</p> : null}
      {found.length > 0 ? (
        <Scroll label="Alerts">
          <table class="data">
            <thead>
              <tr>
                <th scope="col">when</th>
                <th scope="col">what</th>
                <th scope="col">rule</th>
                <th scope="col">in words</th>
                <th scope="col">run</th>
              </tr>
            </thead>
            <tbody>
              {found.map((remark, at) => (
                <tr key={at}>
                  <td class="when">{moment(remark.at)}</td>
                  <td>
                    <Word kind={remark.kind}>{remark.word}</Word>
                  </td>
                  <td>
                    <code>{remark.rule}</code>
                  </td>
                  <td class="what">{remark.text}</td>
                  <td>
                    <a href={`#/runs/${remark.run}`}>{remark.run}</a>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      ) : null}
    </div>
  );
}
