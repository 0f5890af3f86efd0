// The small parts of the labeler's page: buttons of its toolbar and bar, and the numbers of the session.

import { element, icon } from "./dom.js";

/**
 * A button of the toolbar below the image: named, or a "symbol" alone; a "wide" one is left out where there is no room.
 */
export function tool(symbol, label, key, run, kind = "named") {
  const isNamed = kind === "named";
  return element(
    "button",
    {
      type: "button",
      class: `tool ${kind}`,
      title: `${label} (${key})`,
      "aria-label": label,
      on: { click: run },
    },
    icon(symbol),
    isNamed && element("span", { "aria-hidden": "true" }, label),
    isNamed && element("kbd", { "aria-hidden": "true" }, key),
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
