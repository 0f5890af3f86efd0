// Who has worked in the project, and how. Owns the table.

import { element, replaceChildren } from "../dom.js";
import { ago, count, seconds } from "../format.js";
import { text } from "../text.js";

export class LabelerTable {
  constructor() {
    this.element = element("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": text.labelers.title });
  }

  /** Shows the service's `rows`. */
  show(rows) {
    if (rows.length === 0) {
      replaceChildren(this.element, element("p", { class: "nothing" }, text.labelers.empty));
      return;
    }
    const head = text.labelers.columns.map(([name, kind, title]) => element("th", { scope: "col", class: kind, title }, name));
    replaceChildren(
      this.element,
      element("table", { class: "table" }, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows.map(row))),
    );
  }
}

function row(labeler) {
  const cells = [
    count(labeler.label_count),
    count(labeler.skip_count),
    count(labeler.undone_count + labeler.corrected_count),
    labeler.seconds_median === null ? "–" : seconds(labeler.seconds_median),
    count(labeler.held_count),
  ];
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, labeler.name, element("span", { class: "hint" }, ` ${text.roles[labeler.role] ?? labeler.role}`)),
    cells.map((words) => element("td", { class: "number" }, words)),
    element("td", {}, labeler.last_label_at === null ? "–" : ago(labeler.last_label_at)),
  );
}
