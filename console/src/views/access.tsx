// Keys, policies and backends: who may do what here, and what is here.

import { useState } from "preact/hooks";
import { api, key } from "../lib/api";
import { ceiling, moment, words } from "../lib/format";
import type { KeyInfo, Offer, Policy } from "../lib/types";
import { Scroll, Trouble, Word, useAsked } from "../result/parts";

export function Access({ keyed, changed }: { keyed: number; changed: () => void }) {
  return (
    <div class="view page">
      <h2>Keys and policies</h2>
      <KeyField changed={changed} />
      <Keys keyed={keyed} />
      <Policies keyed={keyed} />
      <Backends keyed={keyed} />
    </div>
  );
}

function KeyField({ changed }: { changed: () => void }) {
  const [typed, type] = useState("");
  const [has, setHas] = useState(key.get() !== "");
  const use = (value: string) => {
    key.set(value.trim());
    setHas(value.trim() !== "");
    type("");
    changed();
  };
  return (
    <section aria-label="Your key" class="card">
      <h3>Your key</h3>
      <form
        class="bar"
        onSubmit={(submit) => {
          submit.preventDefault();
          use(typed);
        }}
      >
        <label class="grow">
          Key
          <input type="password" autocomplete="off" value={typed} placeholder="casemate_…" onInput={(input) => type(input.currentTarget.value)} />
        </label>
        <button type="submit" class="go" disabled={typed.trim() === ""}>
          Use
        </button>
        <button type="button" disabled={!has} onClick={() => use("")}>
          Forget it
        </button>
      </form>
      <p class="quiet">
        {has ? "A key is in use. " : "No key is in use. "}It is kept in this tab alone, until the tab is closed, and sent to this server alone.
      </p>
    </section>
  );
}

function Keys({ keyed }: { keyed: number }) {
  const { value, error } = useAsked(api.keys, [keyed]);
  return (
    <section aria-label="Keys">
      <h3>Keys of the tenant</h3>
      <Trouble text={error} />
      {value ? (
        <p class="quiet">
          You are tenant <code>{value.tenant}</code>
          {value.key ? (
            <>
              {" "}
              with key <code>{value.key}</code>
            </>
          ) : (
            ", for which no key is needed on this address"
          )}
          . Keys are made and revoked on the command line: <code>casemate key create --tenant NAME</code>.
        </p>
      ) : null}
      {value && value.keys.length > 0 ? <KeyTable keys={value.keys} own={value.key} /> : null}
    </section>
  );
}

function state(info: KeyInfo): { kind: string; word: string } {
  if (info.revoked_ms !== null) return { kind: "stops", word: "revoked" };
  if (info.expires_ms !== null && info.expires_ms < Date.now()) return { kind: "stops", word: "expired" };
  return { kind: "holds", word: "in force" };
}

function KeyTable({ keys, own }: { keys: KeyInfo[]; own: string | null }) {
  return (
    <Scroll label="Keys">
      <table class="data">
        <thead>
          <tr>
            {["key", "name", "state", "policy", "backends", "scopes", "at once", "a minute", "made"].map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {keys.map((info) => (
            <tr key={info.id}>
              <th scope="row">
                <code>{info.id}</code>
                {info.id === own ? " (yours)" : ""}
              </th>
              <td>{info.name || "–"}</td>
              <td>
                <Word kind={state(info).kind}>{state(info).word}</Word>
              </td>
              <td>{info.policy ?? "the server's"}</td>
              <td>{info.backends.filter(Boolean).join(", ") || "all"}</td>
              <td>{info.scopes.filter(Boolean).join(", ") || "all"}</td>
              <td class="number">{info.running ?? "–"}</td>
              <td class="number">{info.per_minute ?? "–"}</td>
              <td class="when">{moment(info.created_ms)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Policies({ keyed }: { keyed: number }) {
  const { value, error } = useAsked(api.policies, [keyed]);
  if (!value) return <Trouble text={error} />;
  const others = value.presets.filter((preset) => preset.name !== value.in_force.name);
  return (
    <section aria-label="Policies">
      <h3>Policies</h3>
      <p class="quiet">A request may name a preset to be narrower than what is in force; none makes it wider.</p>
      <PolicyTable policies={[value.in_force, ...others]} />
    </section>
  );
}

function PolicyTable({ policies }: { policies: Policy[] }) {
  const [first] = policies;
  const names = Object.keys(first?.limits ?? {});
  const rest: [string, (policy: Policy) => string][] = [
    ["screening", (policy) => policy.screen],
    ["clock", (policy) => `${policy.clock_granularity_ms} ms`],
    ["attacked", (policy) => policy.attacked],
    ["guarantees", (policy) => String(policy.require.length)],
  ];
  return (
    <Scroll label="Policies">
      <table class="data policies">
        <thead>
          <tr>
            <th scope="col">limit</th>
            {policies.map((policy, at) => (
              <th key={policy.name} scope="col" title={policy.description}>
                {policy.name}
                {at === 0 ? <Word kind="holds">in force</Word> : null}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {names.map((name) => (
            <tr key={name}>
              <th scope="row">{words(name.replace(/_(bytes|ms|millis)$/, ""))}</th>
              {policies.map((policy) => (
                <td key={policy.name} class="number">
                  {ceiling(name, policy.limits[name] ?? "–")}
                </td>
              ))}
            </tr>
          ))}
          {rest.map(([name, of]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              {policies.map((policy) => (
                <td key={policy.name} class="number" title={name === "guarantees" ? policy.require.map(words).join(", ") : undefined}>
                  {of(policy)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Backends({ keyed }: { keyed: number }) {
  const { value, error } = useAsked(api.backends, [keyed]);
  return (
    <section aria-label="Backends">
      <h3>Backends</h3>
      <Trouble text={error} />
      <ul class="backends">
        {value?.backends.map((offer) => (
          <Backend key={offer.backend} offer={offer} />
        ))}
      </ul>
    </section>
  );
}

function Backend({ offer }: { offer: Offer }) {
  const no = offer.usable === "yes" ? null : offer.usable.no;
  return (
    <li class="card">
      <p>
        <strong>{offer.backend}</strong> <Word kind={no ? "quiet" : "holds"}>{no ? "not here" : "usable"}</Word>{" "}
        <span class="quiet">{no ? `${no.why}; ${no.fix}` : `${offer.languages.join(", ")}; ${offer.guarantees.length} guarantees`}</span>
      </p>
      {no ? null : (
        <details>
          <summary>What it offers</summary>
          <p>{offer.guarantees.map(words).join(", ")}</p>
          <ul>
            {offer.notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        </details>
      )}
    </li>
  );
}
