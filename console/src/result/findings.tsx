// What layers 1 and 2 found, and what the program needs.

import { count } from "../lib/format";
import type { Fact, Finding, Screening } from "../lib/types";
import { Word } from "./parts";

const KIND = { refuse: "stops", confine: "notes", pass: "quiet" } as const;
const SAID = { refuse: "refused", confine: "confined", pass: "noted" } as const;

export function Findings({ screening, goTo }: { screening: Screening; goTo: ((line: number) => void) | null }) {
  const { findings } = screening;
  if (screening.skipped) return <p class="quiet empty">The policy skips screening, or the program's language is not analysed.</p>;
  return (
    <div class="findings">
      {findings.length === 0 ? <p class="quiet">Nothing was found.</p> : null}
      <ul>
        {findings.map((finding, at) => (
          <One key={at} finding={finding} goTo={goTo} />
        ))}
      </ul>
      {screening.findings_omitted > 0 ? <p class="quiet">{count(screening.findings_omitted, "further finding")} left out.</p> : null}
      <Needs screening={screening} />
    </div>
  );
}

function One({ finding, goTo }: { finding: Finding; goTo: ((line: number) => void) | null }) {
  const line = finding.place?.line;
  return (
    <li class={`finding ${KIND[finding.action]}`}>
      <div class="finding-head">
        <Word kind={KIND[finding.action]}>{SAID[finding.action]}</Word>
        <code>{finding.rule}</code>
        <span class="quiet">
          {finding.severity} severity, {finding.confidence} confidence
        </span>
        {line !== undefined ? (
          goTo ? (
            <button type="button" class="link" onClick={() => goTo(line)}>
              line {line}
            </button>
          ) : (
            <span class="quiet">line {line}</span>
          )
        ) : null}
      </div>
      <p>{finding.message}</p>
      {finding.excerpt ? <pre>{finding.excerpt}</pre> : null}
      <p class="quiet">
        {finding.reason}
        {finding.better_way ? `. Better: ${finding.better_way}` : ""}
      </p>
      {finding.chain?.length ? (
        <ol class="chain">
          {finding.chain.map((step, at) => (
            <li key={at}>
              {step.what}
              {step.place ? ` (line ${step.place.line})` : ""}
            </li>
          ))}
        </ol>
      ) : null}
    </li>
  );
}

function Needs({ screening }: { screening: Screening }) {
  const lists = Object.entries(screening.manifest).filter((entry): entry is [string, Fact[]] => Array.isArray(entry[1]) && entry[1].length > 0);
  if (lists.length === 0) return null;
  return (
    <section aria-label="What the program needs">
      <h3>What it needs, as far as its text shows</h3>
      <dl class="facts">
        {lists.map(([name, facts]) => (
          <div key={name}>
            <dt>{name.replaceAll("_", " ")}</dt>
            <dd>
              {facts.map((fact, at) => (
                <code key={at} title={`${fact.certainty}${fact.access ? `, ${fact.access}` : ""}${fact.place ? `, line ${fact.place.line}` : ""}`}>
                  {fact.value}
                  {fact.access ? <span class="quiet"> {fact.access}</span> : null}
                </code>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
