// What a run used of what it was allowed.

import { useEffect, useRef } from "preact/hooks";
import type { Plotted } from "../lib/charts";
import { bytes, ceiling, micros } from "../lib/format";
import { plot } from "../lib/plot";
import type { Watched } from "../lib/session";
import { type Limits, type Outcome, type RunEvent, type Usage, isMeasured } from "../lib/types";

interface Used {
  name: string;
  used: number;
  limit: string;
  scale: number;
  say: (value: number) => string;
}

const plain = (value: number): string => value.toLocaleString("en");

const USED: ({ of: (usage: Usage) => number } & Omit<Used, "used">)[] = [
  { name: "Memory", of: (usage) => usage.memory_peak_bytes, limit: "memory_bytes", scale: 1, say: bytes },
  { name: "CPU time", of: (usage) => usage.cpu_us, limit: "cpu_time_ms", scale: 1000, say: micros },
  { name: "Wall time", of: (usage) => usage.wall_us, limit: "wall_time_ms", scale: 1000, say: micros },
  { name: "Disk", of: (usage) => usage.disk_peak_bytes, limit: "disk_bytes", scale: 1, say: bytes },
  { name: "Files", of: (usage) => usage.disk_peak_files, limit: "disk_files", scale: 1, say: plain },
  { name: "Open files", of: (usage) => usage.open_files_peak, limit: "open_files", scale: 1, say: plain },
  { name: "Output", of: (usage) => usage.stdout_bytes, limit: "output_bytes", scale: 1, say: bytes },
  { name: "Errors", of: (usage) => usage.stderr_bytes, limit: "output_bytes", scale: 1, say: bytes },
];

interface Told {
  outcome: Outcome;
  events: RunEvent[] | null;
  /** When its output came here, where it was watched from here. */
  output: Watched["output"] | null;
}

export function Resources({ outcome, events, output }: Told) {
  const { usage, limits } = outcome;
  if (!usage || !limits || !outcome.receipt) return <p class="quiet empty">The program was not started, so it used nothing.</p>;
  return (
    <div class="resources">
      <table class="meters">
        <caption class="unseen">Used and allowed</caption>
        <thead class="unseen">
          <tr>
            <th scope="col">what</th>
            <th scope="col">share</th>
            <th scope="col">used of allowed</th>
          </tr>
        </thead>
        <tbody>
          {USED.map(({ of, ...rest }) => (
            <Meter key={rest.name} {...rest} used={of(usage)} limits={limits} />
          ))}
        </tbody>
      </table>
      <Curves outcome={outcome} events={events} output={output} />
    </div>
  );
}

function Meter({ name, used, limit, scale, say, limits }: Used & { limits: Limits }) {
  const allowed = limits[limit];
  const share = typeof allowed === "number" && allowed > 0 ? Math.min(used / (allowed * scale), 1) : null;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>{share === null ? <span class="quiet">no ceiling</span> : <meter min={0} max={1} high={0.9} optimum={0} value={share} aria-label={`${name}: share of what is allowed`} />}</td>
      <td class="number">
        {say(used)} <span class="quiet">of {ceiling(limit, allowed ?? "–")}</span>
      </td>
    </tr>
  );
}

/** What was read and written, summed as descriptors were closed. */
function transfers(events: RunEvent[], end: number): Plotted {
  const own = (event: RunEvent) => String(event.path ?? "").startsWith("/usr/");
  const kinds: [string, (event: RunEvent) => boolean][] = [
    ["read of files", (event) => event.event === "file_read" && !own(event)],
    ["read of the interpreter's library", (event) => event.event === "file_read" && own(event)],
    ["written", (event) => event.event === "file_write"],
  ];
  const told = events.filter((event) => kinds.some(([, is]) => is(event))).sort((a, b) => a.at_us - b.at_us);
  const sums = kinds.map(() => 0);
  const rows: number[][] = [[0, ...sums]];
  for (const event of told) {
    kinds.forEach(([, is], at) => (sums[at] = (sums[at] ?? 0) + (is(event) ? Number(event.bytes) : 0)));
    rows.push([event.at_us, ...sums]);
  }
  rows.push([end, ...sums]);
  return curve(rows, kinds.map(([label]) => label));
}

/** Memory and disk as they were measured; the run began with nothing of either. */
function held(events: RunEvent[]): Plotted {
  const rows = measured(events).map((event) => [event.at_us, Number(event.memory_bytes), Number(event.disk_bytes)]);
  return curve([[0, 0, 0], ...rows], ["memory", "disk"]);
}

/** Processors in use: the time that they worked between two measurements, by the time between these. */
function processors(events: RunEvent[], { wall_us, cpu_us }: Usage): Plotted {
  const rows: number[][] = [];
  let [then, used] = [0, 0];
  for (const [at, cpu] of [...measured(events).map((event) => [event.at_us, Number(event.cpu_us)]), [wall_us, cpu_us]] as [number, number][]) {
    // Two measurements at almost the same time say nothing of what lies between them.
    if (at - then < SOON_US) continue;
    rows.push([then, Math.max(cpu - used, 0) / (at - then)]);
    [then, used] = [at, cpu];
  }
  const last = rows.at(-1);
  if (last) rows.push([then, last[1] ?? 0]);
  return curve(rows, ["processors"]);
}

const SOON_US = 5000;
const measured = (events: RunEvent[]): RunEvent[] => events.filter(isMeasured).sort((a, b) => a.at_us - b.at_us);

function curve(rows: number[][], labels: string[]): Plotted {
  const column = (at: number) => rows.map((row) => row[at] ?? 0);
  return {
    kind: "line",
    x: column(0).map((us) => us / 1e6),
    series: labels.map((label, at) => ({ label, y: column(at + 1) })),
    time: false,
    names: null,
    logarithmic: { x: false, y: false },
    boxes: [],
    x_label: "seconds",
    y_label: "",
  };
}

function Curves({ outcome: { usage }, events, output }: Told) {
  if (!events || !usage) {
    return <p class="quiet">Curves are drawn from the events of a run, which the server keeps of runs that ask for it, as those from this page do.</p>;
  }
  const end = usage.wall_us;
  const came = [[0, 0], ...(output ?? []).map(({ at_us, bytes: total }) => [at_us, total])];
  return (
    <>
      {measured(events).length > 0 ? (
        <>
          <Curve name="Memory and disk held" data={held(events)} say={bytes} />
          <Curve name="Processors in use" data={processors(events, usage)} say={share} />
        </>
      ) : (
        <p class="quiet">The run ended before it was measured the first time, after 20 ms: the table has what it used in all.</p>
      )}
      <Curve name="Bytes read and written" data={transfers(events, end)} say={bytes} />
      {output ? <Curve name="Output, as it came here" data={curve(came.length > 1 ? came : [[0, 0], [end, 0]], ["characters written"])} say={bytes} /> : null}
    </>
  );
}

const share = (value: number): string => value.toFixed(2);

function Curve({ name, data, say }: { name: string; data: Plotted; say: (value: number) => string }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => (place.current ? plot(place.current, data, { height: 160, say, steps: true, binary: say === bytes }) : undefined), [data.x.length]);
  return (
    <div class="plot">
      <h3>{name}</h3>
      <div ref={place} role="img" aria-label={`${name} over time; the sums are in the table above and in the timeline`} />
    </div>
  );
}
