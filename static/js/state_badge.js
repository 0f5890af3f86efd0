// The small coloured word for a project's state, the same on every page.

import { element } from "./dom.js";
import { text } from "./text.js";

/** Failed and paused stand before the state itself. */
export function stateBadge(project) {
  const kind = project.failure !== null ? "failed" : project.isPaused ? "paused" : project.state;
  return element("span", { class: `badge ${kind}` }, text.states[kind] ?? kind);
}
