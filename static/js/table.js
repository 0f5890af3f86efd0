// Tables with a head. Owns how a column's name and kind become its head.

import { element } from "./dom.js";

/**
 * A table of `rows` (elements) under `columns`, `[words, kind, title]`: a "number" stands right, and the name of "actions" is only read out.
 */
export function table(columns, rows, kind = "") {
  const head = columns.map(([words, column = "", title = null]) =>
    column === "actions"
      ? element("th", { scope: "col", class: "number" }, element("span", { class: "unseen" }, words))
      : element("th", { scope: "col", class: column, title }, words),
  );
  return element(
    "table",
    { class: `table ${kind}` },
    element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, rows),
  );
}
