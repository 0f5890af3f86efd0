// The project's states as a drawing, with the present one marked. Owns the places of states and arrows, once for wide and once for narrow pages.

import { element, replaceChildren, svg } from "../dom.js";
import { PROJECT_STATES } from "../shapes.js";
import { text } from "../text.js";

const BOX = { width: 104, height: 36 };

const WIDE = {
  size: [1000, 132],
  places: {
    empty: [66, 84],
    importing: [190, 84],
    ready: [314, 84],
    pretraining: [438, 84],
    labeling: [562, 84],
    training: [686, 84],
    scoring: [810, 84],
    finished: [934, 84],
  },
  // The way back from scoring to labeling, over the top of training.
  back: "M810 66 C810 14 562 14 562 62",
  backWords: [686, 20],
};

const NARROW = {
  size: [340, 230],
  places: {
    empty: [58, 24],
    importing: [170, 24],
    ready: [282, 24],
    pretraining: [282, 84],
    labeling: [282, 144],
    training: [170, 144],
    scoring: [58, 144],
    finished: [58, 208],
  },
  // The way back runs under training here, beside the way down to finished.
  back: "M92 164 C110 208 282 208 282 166",
  backWords: [214, 212],
};

export class StateMachine {
  #wide = matchMedia("(min-width: 720px)");
  #project = null;
  #drawn = "";

  constructor() {
    this.element = element("div", { class: "machine" });
    this.#wide.addEventListener("change", () => this.show(this.#project));
  }

  /** Marks the state of `project`. */
  show(project) {
    if (!project) return;
    this.#project = project;
    const plan = this.#wide.matches ? WIDE : NARROW;
    const key = [project.state, project.isPaused, project.failure !== null, plan.size].join();
    if (key === this.#drawn) return;
    this.#drawn = key;
    replaceChildren(this.element, draw(project, plan));
  }
}

function draw(project, plan) {
  const present = PROJECT_STATES.indexOf(project.state);
  const [width, height] = plan.size;
  const tone = project.failure !== null ? "failed" : project.isPaused ? "paused" : "present";
  return svg(
    "svg",
    {
      class: "machine-drawing",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": text.board.machine(text.states[project.state] ?? project.state),
    },
    svg(
      "defs",
      {},
      svg(
        "marker",
        { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
        svg("path", { class: "arrow-head", d: "M0 0 8 4 0 8z" }),
      ),
    ),
    PROJECT_STATES.slice(1).map((state, index) => arrow(plan.places[PROJECT_STATES[index]], plan.places[state])),
    svg("path", { class: "arrow", d: plan.back, "marker-end": "url(#arrow)" }),
    svg("text", { class: "arrow-words", x: plan.backWords[0], y: plan.backWords[1], "text-anchor": "middle" }, text.board.nextRound),
    PROJECT_STATES.map((state, index) => box(state, plan.places[state], index === present ? tone : index < present ? "past" : "ahead")),
  );
}

function box(state, [x, y], kind) {
  return svg(
    "g",
    { class: `state ${kind}` },
    svg("rect", { x: x - BOX.width / 2, y: y - BOX.height / 2, width: BOX.width, height: BOX.height, rx: 18 }),
    svg("text", { x, y: y + 4.5, "text-anchor": "middle" }, text.states[state]),
  );
}

/** A straight arrow from the edge of one box to the edge of the next. */
function arrow([x1, y1], [x2, y2]) {
  const isLevel = y1 === y2;
  const step = Math.sign(isLevel ? x2 - x1 : y2 - y1);
  const gap = 2;
  const line = isLevel
    ? { x1: x1 + step * (BOX.width / 2 + gap), y1, x2: x2 - step * (BOX.width / 2 + gap), y2 }
    : { x1, y1: y1 + step * (BOX.height / 2 + gap), x2, y2: y2 - step * (BOX.height / 2 + gap) };
  return svg("line", { class: "arrow", ...line, "marker-end": "url(#arrow)" });
}
