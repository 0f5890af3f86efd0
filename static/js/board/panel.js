// Framed parts of the board, and the large numbers in them.

import { element } from "../dom.js";

/** A framed part with its title; `size` is a class that says how much of the grid it takes, `tools` stand beside the title. */
export function panel(title, body, size = "", tools = null) {
  return element(
    "section",
    { class: `panel ${size}`, "aria-label": title },
    element("div", { class: "panel-head" }, element("h2", {}, title), tools),
    body,
  );
}

/** A number with its name above and a note behind; it stands in a `dl` of class `figures`. */
export function figure(name, value, note) {
  return element(
    "div",
    { class: "figure" },
    element("dt", {}, name),
    element("dd", {}, element("strong", {}, value), element("span", { class: "hint" }, note)),
  );
}
