// A chart's data as something that can be plotted and something that can be read. Pure.

export const CHART = "application/vnd.casemate.chart+json";

export interface Chart {
  type: string;
  title: string | null;
  x_label?: string | null;
  y_label?: string | null;
  x_scale?: string;
  y_scale?: string;
  elements: Element[];
}

type At = number | string | null;
interface Series {
  label: string;
  points: [At, At][];
}
interface Bar {
  label: string;
  group: string;
  value: number | null;
}
interface Slice {
  label: string;
  angle: number;
}
export interface Box {
  label: string;
  min: number;
  first_quartile: number;
  median: number;
  third_quartile: number;
  max: number;
  outliers: number[];
}
type Element = Series | Bar | Slice | Box | Chart;

/** What uPlot takes: one list of x, and for each series a list of y of the same length. */
export interface Plotted {
  kind: "line" | "points" | "bars" | "boxes";
  x: number[];
  series: { label: string; y: (number | null)[] }[];
  /** Seconds since 1970 where x is time. */
  time: boolean;
  /** Names of the whole numbers on x, where it is no number. */
  names: string[] | null;
  logarithmic: { x: boolean; y: boolean };
  boxes: Box[];
  x_label: string;
  y_label: string;
}

export interface Readable {
  head: string[];
  rows: At[][];
}

/** The charts of a figure: those of a superchart, or the one. */
export function parts(chart: Chart): Chart[] {
  return chart.type === "superchart" ? (chart.elements as Chart[]) : [chart];
}

export function plotted(chart: Chart): Plotted | null {
  const empty = {
    time: chart.x_scale === "datetime",
    names: null,
    logarithmic: { x: chart.x_scale === "log", y: chart.y_scale === "log" },
    boxes: [],
    x_label: chart.x_label ?? "",
    y_label: chart.y_label ?? "",
  };
  if (chart.elements.length === 0) return null;
  switch (chart.type) {
    case "line":
    case "scatter":
      return { ...empty, ...xy(chart.elements as Series[], chart) };
    case "bar":
      // Which of its axes has the names a bar chart does not say: the labels are told with the values.
      return { ...empty, ...bars(chart.elements as Bar[]), x_label: "", y_label: chart.y_label ?? chart.x_label ?? "" };
    case "pie": {
      const share = (chart.elements as Slice[]).map(({ label, angle }) => ({ label, group: "share, %", value: (angle / 360) * 100 }));
      return { ...empty, ...bars(share) };
    }
    case "box_and_whisker":
      return { ...empty, ...boxes(chart.elements as Box[]) };
    default:
      return null;
  }
}

/** Times have no zone of their own; they are shown as they stand. */
const seconds = (at: string): number => Date.parse(/Z|[+-]\d\d:\d\d$/.test(at) ? at : `${at}Z`) / 1000;

function xy(elements: Series[], chart: Chart): Pick<Plotted, "kind" | "x" | "series" | "names"> {
  const named = chart.x_scale !== "datetime" && elements.some(({ points }) => points.some(([x]) => typeof x === "string"));
  const names: string[] = [];
  const place = (x: At): number | null => {
    if (x === null) return null;
    if (typeof x === "number" && !named) return x;
    if (!named) return seconds(String(x));
    const known = names.indexOf(String(x));
    return known >= 0 ? known : names.push(String(x)) - 1;
  };
  const series = elements.map(({ label, points }, at) => ({
    label: label || `series ${at + 1}`,
    points: points
      .map(([x, y]) => ({ x: place(x), y: typeof y === "number" ? y : null }))
      .filter((point): point is { x: number; y: number | null } => point.x !== null && Number.isFinite(point.x)),
  }));
  const ordered = series.every(({ points }) => points.every((point, at) => at === 0 || point.x > (points[at - 1]?.x ?? point.x)));
  // A line that turns back is no function of x: its points are shown.
  const joined = chart.type === "line" && ordered ? merged(series) : spread(series);
  return { kind: chart.type === "line" && ordered ? "line" : "points", names: named ? names : null, ...joined };
}

interface Placed {
  label: string;
  points: { x: number; y: number | null }[];
}

/** One row for each x that any series has. */
function merged(series: Placed[]): Pick<Plotted, "x" | "series"> {
  const x = [...new Set(series.flatMap(({ points }) => points.map((point) => point.x)))].sort((a, b) => a - b);
  const places = new Map(x.map((at, place) => [at, place]));
  return {
    x,
    series: series.map(({ label, points }) => {
      const y: (number | null)[] = new Array(x.length).fill(null);
      for (const point of points) y[places.get(point.x) ?? 0] = point.y;
      return { label, y };
    }),
  };
}

/** One row for each point, so that several points may have the same x. */
function spread(series: Placed[]): Pick<Plotted, "x" | "series"> {
  const all = series.flatMap(({ points }, of) => points.map((point) => ({ ...point, of }))).sort((a, b) => a.x - b.x);
  return {
    x: all.map((point) => point.x),
    series: series.map(({ label }, of) => ({ label, y: all.map((point) => (point.of === of ? point.y : null)) })),
  };
}

function bars(elements: Bar[]): Pick<Plotted, "kind" | "x" | "series" | "names" | "time"> {
  const names = [...new Set(elements.map(({ label }) => label))];
  const groups = [...new Set(elements.map(({ group }) => group))];
  // The bars of one name stand side by side, with a gap before the next name.
  const width = groups.length + (groups.length > 1 ? 1 : 0);
  const x = names.flatMap((_, at) => groups.map((__, group) => at * width + group));
  const series = groups.map((group, which) => ({
    label: group || "value",
    y: names.flatMap((name) =>
      groups.map((_, at) => (at === which ? (elements.find((bar) => bar.label === name && bar.group === group)?.value ?? null) : null)),
    ),
  }));
  const labels: string[] = [];
  names.forEach((name, at) => (labels[at * width + (groups.length - 1) / 2] = name));
  return { kind: "bars", x, series, names: labels, time: false };
}

function boxes(elements: Box[]): Pick<Plotted, "kind" | "x" | "series" | "names" | "boxes" | "time"> {
  const parts: [string, (box: Box) => number][] = [
    ["max", (box) => Math.max(box.max, ...box.outliers)],
    ["third quartile", (box) => box.third_quartile],
    ["median", (box) => box.median],
    ["first quartile", (box) => box.first_quartile],
    ["min", (box) => Math.min(box.min, ...box.outliers)],
  ];
  return {
    kind: "boxes",
    x: elements.map((_, at) => at),
    series: parts.map(([label, of]) => ({ label, y: elements.map(of) })),
    names: elements.map(({ label }) => label),
    boxes: elements,
    time: false,
  };
}

const MOST_ROWS = 500;

export function readable(chart: Chart): Readable {
  switch (chart.type) {
    case "line":
    case "scatter":
      return {
        head: ["series", chart.x_label || "x", chart.y_label || "y"],
        rows: (chart.elements as Series[]).flatMap(({ label, points }, at) => points.map(([x, y]) => [label || `series ${at + 1}`, x, y])).slice(0, MOST_ROWS),
      };
    case "bar":
      return { head: ["name", "group", "value"], rows: (chart.elements as Bar[]).map(({ label, group, value }) => [label, group, value]) };
    case "pie":
      return { head: ["name", "share, %"], rows: (chart.elements as Slice[]).map(({ label, angle }) => [label, Number(((angle / 360) * 100).toFixed(2))]) };
    case "box_and_whisker":
      return {
        head: ["name", "min", "first quartile", "median", "third quartile", "max", "outliers"],
        rows: (chart.elements as Box[]).map((box) => [box.label, box.min, box.first_quartile, box.median, box.third_quartile, box.max, box.outliers.length]),
      };
    default:
      return { head: [], rows: [] };
  }
}
