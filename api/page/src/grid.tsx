/** The ledger: rows as a table, with each value as text. */

import type { Cell, Column } from "./api";
import { cell, isNumeric } from "./words";

export function Grid({ columns, rows }: { columns: Column[]; rows: Cell[][] }) {
  if (rows.length === 0) return <p class="empty">No rows.</p>;
  return (
    <div class="scroll tall">
      <table data-grid>
        <thead>
          <tr>
            {columns.map((column, at) => (
              <th key={at} class={isNumeric(column.type) ? "num" : ""} title={column.type}>
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, line) => (
            <tr key={line}>
              {columns.map(({ type }, at) => (
                <td key={at} class={`${isNumeric(type) ? "num" : ""} ${row[at] === null ? "null" : ""}`}>
                  {cell(row[at], type)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
