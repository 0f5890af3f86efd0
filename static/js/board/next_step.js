// What a newcomer does next, from an empty project to the first label. Owns the four steps and when they are shown: until somebody has labelled.

import { element, replaceChildren } from "../dom.js";
import { text } from "../text.js";

/** The step that each state stands in. */
const STEPS = { empty: 0, importing: 0, ready: 1, pretraining: 2, labeling: 3 };

export class NextStep {
  #act;
  #shown = "";

  /** `act` gets "images" or "start" when somebody follows the step; `href` leads to the labeler's page. */
  constructor(act, href) {
    this.#act = act;
    this.href = href;
    this.element = element("section", { class: "next-step", "aria-label": text.nextStep.title, hidden: true });
  }

  /** Shows the step of `project`, if it is in one. */
  show(project) {
    const step = project.spent === 0 && project.failure === null && !project.isPaused ? STEPS[project.state] : undefined;
    this.element.hidden = step === undefined;
    const key = `${step}:${project.state}`;
    if (step === undefined || key === this.#shown) return;
    this.#shown = key;
    const words = text.nextStep[project.state];
    replaceChildren(
      this.element,
      element(
        "ol",
        { class: "stepper" },
        text.nextStep.steps.map((name, index) =>
          element(
            "li",
            { class: index < step ? "done" : index === step ? "now" : "", "aria-current": index === step ? "step" : null },
            name,
          ),
        ),
      ),
      element("div", { class: "next-words" }, element("p", {}, words), this.#action(project.state)),
    );
  }

  #action(state) {
    const button = (words, name) =>
      element("button", { type: "button", class: "button primary", on: { click: () => this.#act(name) } }, words);
    if (state === "empty") return button(text.nextStep.toImages, "images");
    if (state === "ready") return button(text.controls.start.label, "start");
    if (state === "labeling") return element("a", { class: "button primary", href: this.href }, text.nextStep.toLabel);
    return null;
  }
}
