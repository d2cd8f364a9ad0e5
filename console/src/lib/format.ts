// Numbers and times for people.

export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = count;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : Number(value.toFixed(1))} ${units[at]}`;
}

export function micros(us: number): string {
  if (us < 1000) return `${us} µs`;
  return millis(us / 1000);
}

export function millis(ms: number): string {
  if (ms < 10) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${Number((ms / 1000).toFixed(2))} s`;
  return `${Number((ms / 60_000).toFixed(1))} min`;
}

export function count(many: number, one: string, more = `${one}s`): string {
  return `${many.toLocaleString("en")} ${many === 1 ? one : more}`;
}

const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function moment(ms: number): string {
  const then = new Date(ms);
  const time = TIME.format(then);
  return then.toDateString() === new Date().toDateString() ? time : `${DATE.format(then)}, ${time}`;
}

/** A name of the engine's in words: `host_files_hidden` is "host files hidden". */
export function words(name: string): string {
  return name.replaceAll("_", " ");
}

/** A ceiling by the unit in its name. */
export function ceiling(name: string, value: number | string): string {
  if (typeof value !== "number") return value;
  if (name.endsWith("_bytes")) return bytes(value);
  if (name === "cpu_millis") return count(Number((value / 1000).toFixed(2)), "core");
  if (name.endsWith("_ms")) return millis(value);
  return value.toLocaleString("en");
}
