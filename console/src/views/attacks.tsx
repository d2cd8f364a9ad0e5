// The attack matrix: every attack of this build against every backend of this machine, as the last signed results say.

import { api } from "../lib/api";
import { words } from "../lib/format";
import type { AttackMatrix } from "../lib/types";
import { Scroll, Trouble, Word, useAsked } from "../result/parts";

const VERDICTS: Record<string, { mark: string; kind: string; said: string }> = {
  stopped: { mark: "✓", kind: "holds", said: "stopped" },
  got_through: { mark: "✗", kind: "stops", said: "got through" },
  unproven: { mark: "?", kind: "notes", said: "unproven" },
  not_run: { mark: "·", kind: "unreached", said: "not run" },
  not_promised: { mark: "–", kind: "unreached", said: "not promised" },
};
const UNKNOWN = { mark: "·", kind: "unreached", said: "not known" };
const STANDING = { stood: "holds", fell: "stops", none: "quiet" } as const;
const STANDS = { stood: "stood", fell: "fell", none: "does not count" } as const;

export function Attacks() {
  const { value, error } = useAsked(api.attacks);
  return (
    <div class="view page">
      <h2>Attack matrix</h2>
      <Trouble text={error} />
      {value ? <Matrix matrix={value} /> : null}
    </div>
  );
}

function Matrix({ matrix }: { matrix: AttackMatrix }) {
  const { attacks, backends } = matrix;
  const attacked = backends.filter((backend) => backend.made_at !== null);
  const threats = [...new Set(attacks.map((attack) => attack.threat))];
  return (
    <>
      <p class="quiet">
        {attacks.length} attacks. The results are those of <code>casemate attack</code> on this machine, signed by its user, as they were when the server started; those that count no longer are without colour.
        {attacked.length === 0 ? " No backend has been attacked here yet: run it and start the server again." : ""}
      </p>
      <ul class="standing">
        {backends.map((backend) => (
          <li key={backend.backend}>
            <strong>{backend.backend}</strong> <Word kind={STANDING[backend.standing]}>{backend.made_at || backend.standing !== "none" ? STANDS[backend.standing] : "unknown"}</Word>{" "}
            <span class="quiet">{backend.says}</span>
          </li>
        ))}
      </ul>
      <Scroll label="Attack matrix">
        <table class="data matrix">
          <thead>
            <tr>
              <th scope="col">attack</th>
              {attacked.map((backend) => (
                <th scope="col" key={backend.backend} class="cell">
                  {backend.backend}
                </th>
              ))}
              <th scope="col">tries to</th>
            </tr>
          </thead>
          {threats.map((threat) => (
            <tbody key={threat}>
              <tr class="group">
                <th scope="rowgroup" colSpan={attacked.length + 2}>
                  {threat.replaceAll("-", " ")}
                </th>
              </tr>
              {attacks
                .filter((attack) => attack.threat === threat)
                .map((attack) => (
                  <tr key={attack.attack}>
                    <th scope="row">{words(attack.attack)}</th>
                    {attacked.map((backend) => (
                      <Cell key={backend.backend} counts={backend.standing !== "none"} cell={backend.cells.find((cell) => cell.attack === attack.attack)} />
                    ))}
                    <td class="quiet what">{attack.tries}</td>
                  </tr>
                ))}
            </tbody>
          ))}
        </table>
      </Scroll>
    </>
  );
}

/** A result that counts no longer is shown without colour. */
function Cell({ cell, counts }: { cell: AttackMatrix["backends"][number]["cells"][number] | undefined; counts: boolean }) {
  const verdict = (cell && VERDICTS[cell.verdict]) ?? UNKNOWN;
  const rate = cell?.bits_per_second ? `, ${Math.round(cell.bits_per_second)} bits a second` : "";
  const title = cell ? `${verdict.said}${cell.wall ? ` by ${words(cell.wall)}` : ""}; without a sandbox: ${words(cell.control)}${rate}` : verdict.said;
  return (
    <td class={`cell ${counts ? verdict.kind : "stale"}`} title={title}>
      <span aria-hidden="true">{verdict.mark}</span>
      <span class="unseen">{title}</span>
    </td>
  );
}
