// A figure: its picture, its data as plots, its data as numbers.

import { useEffect, useRef, useState } from "preact/hooks";
import { type Chart, parts, plotted, readable } from "../lib/charts";
import { plot } from "../lib/plot";
import { Choice, Scroll } from "./parts";

const VIEWS = ["Picture", "Plot", "Data"];

export function Figure({ picture, chart, text }: { picture: string | null; chart: Chart | null; text: string }) {
  const charts = chart ? parts(chart) : [];
  const options = VIEWS.filter((view) => (view === "Picture" ? picture : charts.some((part) => part.elements.length > 0)));
  const [view, setView] = useState(options[0] ?? "Picture");
  const title = chart?.title || text || "Figure";
  return (
    <figure class="chart">
      {options.length > 1 ? (
        <div class="chart-head">
          <span class="quiet">{title}</span>
          <Choice name="How to show the figure" options={options} chosen={view} choose={setView} />
        </div>
      ) : null}
      {view === "Picture" && picture ? <img src={picture} alt={title} /> : null}
      {view === "Plot" ? (
        <div class="plots">
          {charts.map((part, at) => (
            <Plot key={at} chart={part} />
          ))}
          <p class="quiet">Drag to enlarge, double-click for all of it, click a name to hide it.</p>
        </div>
      ) : null}
      {view === "Data" ? charts.map((part, at) => <Numbers key={at} chart={part} />) : null}
    </figure>
  );
}

function Plot({ chart }: { chart: Chart }) {
  const place = useRef<HTMLDivElement>(null);
  const data = plotted(chart);
  useEffect(() => (place.current && data ? plot(place.current, data) : undefined), [chart]);
  if (!data) return <p class="quiet">This chart has no data that can be plotted here.</p>;
  const name = chart.title || chart.type.replaceAll("_", " ");
  return (
    <div class="plot">
      <h4>{name}</h4>
      <div ref={place} role="img" aria-label={`Plot of ${name}; its numbers are under Data`} />
    </div>
  );
}

function Numbers({ chart }: { chart: Chart }) {
  const { head, rows } = readable(chart);
  return (
    <div class="plot">
      <h4>{chart.title || chart.type.replaceAll("_", " ")}</h4>
      <Scroll label={`Numbers of ${chart.title || chart.type}`} class="short">
        <table class="data">
          <thead>
            <tr>
              {head.map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, at) => (
              <tr key={at}>
                {row.map((cell, column) => (
                  <td key={column} class={typeof cell === "number" ? "number" : ""}>
                    {typeof cell === "number" ? cell.toLocaleString("en") : (cell ?? "–")}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </div>
  );
}
