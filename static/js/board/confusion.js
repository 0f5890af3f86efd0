// What a model takes each class of the test split for. Owns the choice of the version; the drawing is the server's.

import { element, replaceChildren } from "../dom.js";
import { choice } from "../form.js";
import { text } from "../text.js";
import { Figure } from "./figure.js";

export class Confusion {
  #path;
  #figure = new Figure(text.confusion.empty);
  #select = choice([], null);
  #versions = [];

  constructor(path) {
    this.#path = path;
    this.#select.setAttribute("aria-label", text.confusion.which);
    this.#select.addEventListener("change", () => this.#draw());
    this.element = element("div", { class: "confusion" }, this.#select, this.#figure.element, element("p", { class: "hint" }, text.confusion.hint));
  }

  /** Offers `models`; the newest is shown unless another was chosen. */
  show(models) {
    const versions = models.filter((model) => model.test_count > 0).map((model) => model.version);
    versions.sort((a, b) => b - a);
    const follows = this.#select.value === "" || this.#select.value === String(this.#versions[0]);
    const chosen = follows ? String(versions[0] ?? "") : this.#select.value;
    this.#versions = versions;
    this.#select.hidden = versions.length === 0;
    replaceChildren(
      this.#select,
      versions.map((version) => element("option", { value: String(version), selected: String(version) === chosen }, text.board.version(version))),
    );
    this.#draw();
  }

  #draw() {
    const version = this.#select.value;
    // A drawing that can't be had now stays as it is.
    this.#figure.show(version ? `${this.#path}/models/${version}/confusion.svg` : null).catch(() => {});
  }
}
