// Plots that answer to the pointer: values under it, a part drawn larger by dragging, series hidden by their names.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Plotted } from "./charts";

const PALETTE = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];

/** A colour of the sheet as the canvas understands it. */
function colour(name: string): string {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
const FULL = new Intl.NumberFormat("en", { maximumSignificantDigits: 7 });

const figure = (value: number): string => (Math.abs(value) >= 10_000 ? COMPACT.format(value) : FULL.format(value));

export interface Options {
  height?: number;
  /** How values of y are said. */
  say?: (value: number) => string;
  steps?: boolean;
  /** Whether y counts bytes, whose round numbers are powers of two. */
  binary?: boolean;
}

const POWERS = Array.from({ length: 50 }, (_, at) => 2 ** at);

/** Puts a plot into a place, and follows its width and the colours. The answer takes it away again. */
export function plot(place: HTMLElement, data: Plotted, options: Options = {}): () => void {
  let drawn: uPlot | null = null;
  const draw = () => {
    drawn?.destroy();
    const width = Math.max(place.clientWidth, 200);
    drawn = new uPlot(settings(data, width, options), [data.x, ...data.series.map(({ y }) => y)] as uPlot.AlignedData, place);
  };
  draw();
  const resized = new ResizeObserver(() => {
    const width = Math.max(place.clientWidth, 200);
    if (drawn && Math.abs(drawn.width - width) > 1) drawn.setSize({ width, height: drawn.height });
  });
  resized.observe(place);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", draw);
  addEventListener("casemate:theme", draw);
  return () => {
    resized.disconnect();
    scheme.removeEventListener("change", draw);
    removeEventListener("casemate:theme", draw);
    drawn?.destroy();
  };
}

function settings(data: Plotted, width: number, { height = 260, say = figure, steps = false, binary = false }: Options): uPlot.Options {
  const [ink, line, raised] = [colour("--muted"), colour("--line"), colour("--paper")];
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif", labelSize: 18 };
  const name = (at: number) => data.names?.[at] ?? "";
  const xAxis: uPlot.Axis = { ...axis, label: data.x_label || undefined, size: data.time ? 44 : 28 };
  if (data.names) {
    const places = data.names.map((_, at) => at).filter((at) => data.names?.[at] !== undefined);
    const named = Object.keys(data.names).map(Number);
    xAxis.splits = () => (named.length > 0 ? thinned(named, width) : places);
    xAxis.values = (_, splits) => splits.map((at) => shortened(name(at)));
    xAxis.grid = { show: false };
  }
  return {
    width,
    height,
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    cursor: { drag: { x: true, y: true, uni: 40 }, points: { size: 6 } },
    legend: { live: true },
    scales: {
      x: { time: data.time, distr: data.logarithmic.x ? 3 : 1, range: widened(data) },
      y: { distr: data.logarithmic.y ? 3 : 1, range: data.kind === "bars" ? withZero : undefined },
    },
    axes: [xAxis, { ...axis, label: data.y_label || undefined, size: 58, incrs: binary ? POWERS : undefined, values: (_, splits) => splits.map((value) => (value === null ? "" : say(value))) }],
    series: [
      { label: data.names ? "name" : data.x_label || "x", value: (_, at) => spoken(data, at) },
      ...data.series.map(({ label }, at) => series(data, label, at, say, raised, steps)),
    ],
    hooks: data.kind === "boxes" ? { draw: [(u) => drawBoxes(u, data, ink)] } : {},
  };
}

/** What is under the pointer on x, in words. */
function spoken(data: Plotted, at: number | null): string {
  if (at === null || at === undefined) return "–";
  if (data.time) return new Date(at * 1000).toISOString().replace("T", " ").replace(/(:00)?\.000Z$/, "").replace(/ 00:00$/, "");
  if (!data.names) return FULL.format(at);
  const near = Object.keys(data.names).map(Number).sort((a, b) => Math.abs(a - at) - Math.abs(b - at))[0];
  return near === undefined ? "–" : (data.names[near] ?? "–");
}

function series(data: Plotted, label: string, at: number, say: (value: number) => string, raised: string, steps: boolean): uPlot.Series {
  const stroke = colour(PALETTE[at % PALETTE.length] ?? "--series-1");
  const value = (_: uPlot, y: number | null) => (y === null || y === undefined ? "–" : say(y));
  switch (data.kind) {
    case "bars":
      return { label, stroke, fill: stroke, value, width: 0, paths: uPlot.paths.bars?.({ size: [0.8, 64] }), points: { show: false } };
    case "points":
      return { label, stroke, value, paths: () => null, points: { show: true, size: 6, width: 1, fill: stroke, stroke: raised } };
    case "boxes":
      return { label, stroke, value, paths: () => null, points: { show: false } };
    default:
      return { label, stroke, value, width: 1.8, spanGaps: true, paths: steps ? uPlot.paths.stepped?.({ align: 1 }) : undefined, points: { show: data.x.length < 3 } };
  }
}

/** Room beside what stands on the edge: a bar, or the half of a point. */
function widened(data: Plotted): uPlot.Scale.Range | undefined {
  if (data.names) return (_, low, high) => [low - 0.7, high + 0.7];
  if (data.kind !== "points" || data.logarithmic.x) return undefined;
  return (_, low, high) => {
    const room = (high - low || 1) * 0.03;
    return [low - room, high + room];
  };
}

function withZero(_: uPlot, low: number, high: number): [number, number] {
  const [from, to] = [Math.min(low ?? 0, 0), Math.max(high ?? 0, 0)];
  const room = (to - from || 1) * 0.06;
  return [from < 0 ? from - room : 0, to > 0 ? to + room : 0];
}

/** As many names as there is room for. */
function thinned(places: number[], width: number): number[] {
  const step = Math.ceil((places.length * 70) / Math.max(width - 80, 70));
  return places.filter((_, at) => at % step === 0);
}

const shortened = (name: string): string => (name.length > 12 ? `${name.slice(0, 11)}…` : name);

function drawBoxes(u: uPlot, data: Plotted, ink: string): void {
  const { ctx } = u;
  const [x, y] = [(at: number) => u.valToPos(at, "x", true), (at: number) => u.valToPos(at, "y", true)];
  const half = Math.min(Math.abs(x(1) - x(0)) * 0.25, 28 * devicePixelRatio);
  ctx.save();
  ctx.strokeStyle = ink;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.fillStyle = colour("--series-1");
  const stroke = (...points: [number, number][]) => {
    ctx.beginPath();
    points.forEach(([a, b], at) => (at % 2 === 0 ? ctx.moveTo(a, b) : ctx.lineTo(a, b)));
    ctx.stroke();
  };
  data.boxes.forEach((box, at) => {
    const middle = x(at);
    const [top, bottom] = [y(box.third_quartile), y(box.first_quartile)];
    ctx.globalAlpha = 0.35;
    ctx.fillRect(middle - half, top, half * 2, bottom - top);
    ctx.globalAlpha = 1;
    ctx.strokeRect(middle - half, top, half * 2, bottom - top);
    stroke([middle - half, y(box.median)], [middle + half, y(box.median)], [middle, top], [middle, y(box.max)], [middle, bottom], [middle, y(box.min)]);
    stroke([middle - half / 2, y(box.max)], [middle + half / 2, y(box.max)], [middle - half / 2, y(box.min)], [middle + half / 2, y(box.min)]);
    for (const outlier of box.outliers) {
      ctx.beginPath();
      ctx.arc(middle, y(outlier), 2.5 * devicePixelRatio, 0, Math.PI * 2);
      ctx.stroke();
    }
  });
  ctx.restore();
}
