// The receipt: what was run on what, which walls were asked for and which stood.

import { useState } from "preact/hooks";
import { api } from "../lib/api";
import { bytes, words } from "../lib/format";
import { stands, unmet } from "../lib/layers";
import type { Outcome, ShortReceipt, Wall } from "../lib/types";
import { Choice, Scroll, Trouble, Word, useAsked } from "./parts";

export function ReceiptView({ outcome }: { outcome: Outcome }) {
  const { value: short, error } = useAsked(() => api.receipt(outcome.run), [outcome.run]);
  const [shown, show] = useState("All");
  const walls = outcome.receipt?.walls ?? [];
  const missing = unmet(outcome);
  const wanted = walls.filter((wall) => shown === "All" || (shown === "Required") === (wall.need === "required"));
  return (
    <div class="receipt">
      <Trouble text={error} />
      {outcome.receipt ? (
        <p class="verdict">
          <Word kind={missing.length === 0 ? "holds" : "stops"}>{missing.length > 0 ? "not met" : walls.every(stands) ? "every wall stands" : "every guarantee given"}</Word>
          Asked for {outcome.asked?.length ?? 0} guarantees
          {missing.length === 0 ? ", and each is given" : `; not given: ${missing.map(words).join(", ")}`}. {walls.filter(stands).length} of {walls.length} walls stand
          around {outcome.receipt.guest}.
        </p>
      ) : (
        <p class="verdict">
          <Word kind="stops">not started</Word> No sandbox was made, so no wall was needed: {outcome.ending.cause}.
        </p>
      )}
      <Asked outcome={outcome} missing={missing} />
      {walls.length > 0 ? (
        <>
          <div class="bar">
            <h3>Walls</h3>
            <Choice name="Which walls" options={["All", "Required", "Additional"]} chosen={shown} choose={show} />
          </div>
          <Walls walls={wanted} />
        </>
      ) : null}
      {short ? <What short={short} outcome={outcome} /> : null}
    </div>
  );
}

function Asked({ outcome, missing }: { outcome: Outcome; missing: string[] }) {
  return (
    <ul class="guarantees" aria-label="Guarantees asked for">
      {(outcome.asked ?? []).map((name) => {
        const given = outcome.receipt && !missing.includes(name);
        return (
          <li key={name} class={given ? "holds" : "unreached"}>
            <span aria-hidden="true">{given ? "✓" : "·"}</span> {words(name)}
            <span class="unseen">{given ? " is given" : " is not given"}</span>
          </li>
        );
      })}
    </ul>
  );
}

function Walls({ walls }: { walls: Wall[] }) {
  return (
    <Scroll label="Walls">
      <table class="data walls">
        <thead>
          <tr>
            <th scope="col">wall</th>
            <th scope="col">stands</th>
            <th scope="col">asked</th>
            <th scope="col">got</th>
            <th scope="col">for</th>
          </tr>
        </thead>
        <tbody>
          {walls.map((wall) => (
            <tr key={wall.name} class={stands(wall) ? "" : "stops"}>
              <th scope="row">
                {words(wall.name)}
                {wall.need === "additional" ? <span class="quiet"> additional</span> : null}
              </th>
              <td>
                <Word kind={stands(wall) ? "holds" : wall.need === "required" ? "stops" : "notes"}>{stands(wall) ? "stands" : "missing"}</Word>
              </td>
              <td>{wall.asked}</td>
              <td>{wall.got ?? wall.missing}</td>
              <td class="quiet">{wall.guarantees.map(words).join(", ")}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function download(name: string, value: unknown) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function What({ short, outcome }: { short: ShortReceipt; outcome: Outcome }) {
  const { value: signed } = useAsked(() => api.signedReceipt(short.run), [short.run]);
  const { value: key } = useAsked(() => api.receiptKey(), []);
  const save = () => download(`${short.run}.receipt.json`, signed ?? short);
  const rows: [string, string][] = [
    ["Run", short.run],
    ["Policy", short.policy],
    ["Program", `${short.program.name}, SHA-256 ${short.program.sha256}`],
    ...short.inputs.map((input): [string, string] => ["Input", `${input.path}, ${bytes(input.size_bytes)}, SHA-256 ${input.sha256}`]),
    ["Output", `SHA-256 ${short.stdout_sha256}`],
    ...(outcome.artifacts ?? []).map((file): [string, string] => ["File", `${file.path}, ${bytes(file.size_bytes)}, SHA-256 ${file.sha256}`]),
    ...(outcome.placement?.reasons ?? []).map((reason): [string, string] => ["Placed", reason]),
  ];
  return (
    <section aria-label="What was run on what">
      <div class="bar">
        <h3>What was run on what</h3>
        <button type="button" onClick={save}>
          {signed ? "Save signed receipt" : "Save as JSON"}
        </button>
      </div>
      <dl class="facts">
        {rows.map(([name, value], at) => (
          <div key={at}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <p class="quiet">
        {signed ? (
          <>
            Signed when the run ended, by the key {key?.public_key}. <code>casemate verify {short.run}.receipt.json --key KEY</code> checks it without this server.
          </>
        ) : (
          "The receipt of this run is not signed."
        )}
      </p>
    </section>
  );
}
