// The events of a run: when, what, and who saw it.

import { useMemo, useState } from "preact/hooks";
import { bytes, count, micros, words } from "../lib/format";
import { type Outcome, type RunEvent, isMeasured } from "../lib/types";
import { Scroll } from "./parts";

const PAGE = 200;
const GRAVE = new Set(["denied", "limit_reached", "network", "process", "native_code", "missing", "dropped"]);

const kindOf = (event: RunEvent): string => (GRAVE.has(event.event) ? "stops" : event.event.includes("write") || event.created ? "notes" : "holds");

/** An event's own fields in words. */
function about(event: RunEvent): string {
  const text = (name: string) => (event[name] === undefined ? "" : String(event[name]));
  switch (event.event) {
    case "file_open":
      return `${text("path")} (${words(text("access"))}${event.created ? ", created" : ""})`;
    case "file_read":
    case "file_write":
      return `${text("path")}, ${bytes(Number(event.bytes))} in ${count(Number(event.calls), "call")}`;
    case "rename":
      return `${text("from")} → ${text("to")}`;
    case "link":
      return `${text("path")} → ${text("target")}`;
    case "denied":
      return `${text("wall")}: ${text("call")} ${text("detail")} gave ${text("error")}`;
    case "limit_reached":
      return `${words(text("limit"))}: ${text("allowed")} allowed, ${text("seen")} seen`;
    case "usage":
      return `${micros(Number(event.cpu_us))} CPU, ${bytes(Number(event.memory_bytes))} memory, ${bytes(Number(event.disk_bytes))} disk`;
    case "dropped":
      return count(Number(event.count), "event");
    default:
      return ["path", "name", "detail", "backend", "how"].map(text).find(Boolean) ?? "";
  }
}

export function Timeline({ events, outcome }: { events: RunEvent[] | null; outcome: Outcome | null }) {
  if (!events) return <Kept outcome={outcome} />;
  if (events.length === 0) return <p class="quiet empty">No events: the program was not started, or did nothing that is watched.</p>;
  return <Told events={events} />;
}

function Told({ events }: { events: RunEvent[] }) {
  const [kind, setKind] = useState("");
  const [text, setText] = useState("");
  const [most, setMost] = useState(PAGE);
  const kinds = [...new Set(events.map((event) => event.event))].sort();
  const happened = useMemo(() => events.filter((event) => !isMeasured(event)), [events, events.length]);
  const wanted = useMemo(() => {
    const sought = text.toLowerCase();
    const fits = (event: RunEvent) => !sought || `${event.event} ${about(event)}`.toLowerCase().includes(sought);
    const chosen = kind ? events.filter((event) => event.event === kind) : happened;
    return chosen.filter(fits).sort((a, b) => a.at_us - b.at_us);
  }, [events, happened, kind, text]);
  return (
    <div class="timeline">
      <Strip events={happened} />
      <div class="bar">
        <label>
          Kind
          <select value={kind} onChange={(change) => setKind(change.currentTarget.value)}>
            <option value="">all {happened.length} but usage</option>
            {kinds.map((name) => (
              <option key={name} value={name}>
                {words(name)}
              </option>
            ))}
          </select>
        </label>
        <label>
          Search
          <input type="search" value={text} onInput={(input) => setText(input.currentTarget.value)} />
        </label>
      </div>
      <Scroll label="Events">
        <table class="data events">
          <thead>
            <tr>
              <th scope="col" class="number">
                at
              </th>
              <th scope="col">event</th>
              <th scope="col">what</th>
              <th scope="col">seen by</th>
            </tr>
          </thead>
          <tbody>
            {wanted.slice(0, most).map((event, at) => (
              <tr key={at} class={kindOf(event)}>
                <td class="number">{micros(event.at_us)}</td>
                <td>{words(event.event)}</td>
                <td class="what">{about(event)}</td>
                <td class="quiet">{event.witness}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {wanted.length > most ? (
        <button type="button" onClick={() => setMost(most + PAGE * 5)}>
          Show more of {wanted.length.toLocaleString("en")}
        </button>
      ) : null}
    </div>
  );
}

const MOST_DOTS = 2000;

/** All of it at one look; the table below says the same in words. */
function Strip({ events }: { events: RunEvent[] }) {
  const end = Math.max(...events.map((event) => event.at_us), 1);
  const step = Math.ceil(events.length / MOST_DOTS);
  const dots = events.filter((event, at) => at % step === 0 || kindOf(event) === "stops");
  return (
    <div class="strip" aria-hidden="true">
      <svg viewBox="0 0 1000 34" preserveAspectRatio="none">
        <line x1="0" x2="1000" y1="17" y2="17" />
        {dots.map((event, at) => (
          <rect key={at} class={kindOf(event)} x={(event.at_us / end) * 996} y={kindOf(event) === "stops" ? 3 : 9} width="3" height={kindOf(event) === "stops" ? 28 : 16} />
        ))}
      </svg>
      <span>0</span>
      <span>{micros(end)}</span>
    </div>
  );
}

/** Of a run whose events nobody has kept the server has a summary. */
function Kept({ outcome }: { outcome: Outcome | null }) {
  const summary = outcome?.summary;
  if (!summary) return <p class="quiet empty">There is no summary of this run.</p>;
  const lists: [string, string[]][] = [
    ["Refused calls", summary.denials.map(String)],
    ["Files read", summary.files_read],
    ["Files written", summary.files_written],
    ["Environment read", summary.env_read],
  ];
  return (
    <div class="timeline">
      <p class="quiet">
        The server keeps a summary of {count(summary.events, "event")}
        {summary.events_dropped > 0 ? ` (${summary.events_dropped} more were counted only)` : ""}; the events
        themselves are kept of runs that ask for it, as those from this page do.
      </p>
      {lists.map(([name, entries]) => (
        <section key={name} aria-label={name}>
          <h3>{name}</h3>
          {entries.length === 0 ? <p class="quiet">none</p> : null}
          <ul class="plain">
            {entries.map((entry) => (
              <li key={entry}>
                <code>{entry}</code>
              </li>
            ))}
          </ul>
        </section>
      ))}
    </div>
  );
}
