// The small parts of the labeler's page: buttons of its toolbar and bar, and the numbers of the session.

import { element, icon } from "./dom.js";

/** A button of the toolbar below the image; a wide one shows its symbol alone, and only where there is room. */
export function tool(symbol, label, key, run, isWide = false) {
  return element(
    "button",
    {
      type: "button",
      class: isWide ? "tool wide-only" : "tool named",
      title: `${label} (${key})`,
      "aria-label": label,
      on: { click: run },
    },
    icon(symbol),
    isWide ? null : element("span", { "aria-hidden": "true" }, label),
    isWide ? null : element("kbd", { "aria-hidden": "true" }, key),
  );
}

/** A symbol in the page's bar. */
export function barTool(symbol, label, run) {
  return element("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click: run } }, icon(symbol));
}

/** A number with what it counts. */
export function fact(value, label) {
  return element("div", { class: "fact" }, element("strong", {}, value), element("span", {}, label));
}
