// Bars that are a list: a name, a bar and a number a row. Curves, histograms and matrices are drawn by the server (board/figure.js).

import { element } from "./dom.js";
import { count } from "./format.js";

/**
 * Horizontal bars `[{name, count, colour}]`, the longest as wide as its track, or as wide as its share of `full`. A row may bring `words` in
 * place of its count, and a `title`.
 */
export function barList(rows, label, full = null) {
  const most = full ?? Math.max(1, ...rows.map((row) => row.count));
  return element(
    "ul",
    { class: "bars", "aria-label": label },
    rows.map((row) =>
      element(
        "li",
        { title: row.title, vars: { "--fraction": String(row.count / most), "--class-colour": row.colour } },
        element("span", { class: "bars-name" }, row.name),
        element("span", { class: "bars-track", "aria-hidden": "true" }, row.count > 0 && element("span", { class: "bars-fill" })),
        element("span", { class: "bars-count" }, row.words ?? count(row.count)),
      ),
    ),
  );
}
