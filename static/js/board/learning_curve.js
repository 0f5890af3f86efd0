// The curve of accuracy against labels or cost. Owns the choice of the axis; the drawing is the server's, and its numbers stand in the table of
// rounds.

import { element } from "../dom.js";
import { text } from "../text.js";
import { Figure } from "./figure.js";

export class LearningCurve {
  #path;
  #figure = new Figure(text.curve.empty);
  #axis = "labels";
  #hasPoints = false;

  constructor(path) {
    this.#path = path;
    const buttons = text.curve.axes.map(([axis, words]) =>
      element(
        "button",
        { type: "button", class: "segment", "aria-pressed": String(axis === this.#axis), on: { click: () => this.#choose(axis, buttons) } },
        words,
      ),
    );
    this.choice = element("div", { class: "segments", role: "group", "aria-label": text.curve.axis }, buttons);
    this.element = this.#figure.element;
  }

  /** Draws it anew; without a model there is nothing to draw. */
  async show(project) {
    this.#hasPoints = project.modelVersion !== null;
    this.choice.hidden = !this.#hasPoints;
    await this.#draw();
  }

  async #draw() {
    await this.#figure.show(this.#hasPoints ? `${this.#path}/curve.svg?axis=${this.#axis}` : null);
  }

  #choose(axis, buttons) {
    this.#axis = axis;
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(text.curve.axes[index][0] === axis)));
    // A drawing that can't be had now stays as it is.
    this.#draw().catch(() => {});
  }
}
