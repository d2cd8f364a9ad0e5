// A data frame's first rows, to be sorted by any column.

import { useState } from "preact/hooks";
import { Scroll } from "./parts";

export const TABLE = "application/vnd.casemate.table+json";

type Cell = string | number | boolean | null;

interface Column {
  name: string;
  dtype?: string;
  type?: string;
  index?: boolean;
}

export interface TableData {
  columns: Column[];
  column_count?: number;
  row_count: number;
  preview_rows: Cell[][];
}

interface Order {
  column: number;
  down: boolean;
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });

function said(cell: Cell, column: Column): string {
  if (cell === null || cell === undefined) return "–";
  // An index or a year is a name, not a quantity: no commas there.
  if (typeof cell === "number" && column.type === "number" && !column.index) return NUMBER.format(cell);
  return typeof cell === "object" ? JSON.stringify(cell) : String(cell);
}

const isNumeric = (column: Column): boolean => column.type === "number" || column.type === "integer";

/** Missing values are last, whichever way. */
export function sorted(rows: Cell[][], order: Order | null): Cell[][] {
  if (!order) return rows;
  const { column, down } = order;
  const compare = (one: Cell, other: Cell): number => {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", { numeric: true });
  };
  return [...rows].sort((a, b) => {
    const [one, other] = [a[column] ?? null, b[column] ?? null];
    if (one === null || other === null) return Number(one === null) - Number(other === null);
    return down ? compare(other, one) : compare(one, other);
  });
}

export function Table({ data }: { data: TableData }) {
  const [order, setOrder] = useState<Order | null>(null);
  const shown = data.preview_rows.length;
  const sort = (column: number) => {
    if (order?.column !== column) return setOrder({ column, down: false });
    setOrder(order.down ? null : { column, down: true });
  };
  const hint = shown < data.row_count ? `the first ${shown} of ${data.row_count.toLocaleString("en")} rows; sorting is of these` : `${shown.toLocaleString("en")} rows`;
  return (
    <figure class="table">
      <Scroll label="Table">
        <table class="data">
          <thead>
            <tr>
              {data.columns.map((column, at) => {
                const direction = order?.column === at ? (order.down ? "descending" : "ascending") : "none";
                return (
                  <th key={at} scope="col" aria-sort={direction} class={isNumeric(column) ? "number" : ""}>
                    <button type="button" onClick={() => sort(at)} title={column.dtype}>
                      {column.name || " "}
                      <span class="arrow" aria-hidden="true">
                        {direction === "ascending" ? "▲" : direction === "descending" ? "▼" : "↕"}
                      </span>
                    </button>
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {sorted(data.preview_rows, order).map((row, at) => (
              <tr key={at}>
                {data.columns.map((column, cell) =>
                  column.index ? (
                    <th key={cell} scope="row">
                      {said(row[cell] ?? null, column)}
                    </th>
                  ) : (
                    <td key={cell} class={isNumeric(column) ? "number" : ""}>
                      {said(row[cell] ?? null, column)}
                    </td>
                  ),
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      <figcaption>{hint}</figcaption>
    </figure>
  );
}
