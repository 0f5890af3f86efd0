// What a model takes each class of the test split for. Owns the choice of the version and the list of the most frequent mistakes; the matrix
// is drawn by the server.

import { get } from "../api.js";
import { element, replaceChildren } from "../dom.js";
import { choice } from "../form.js";
import { count, percent } from "../format.js";
import { text } from "../text.js";
import { Figure } from "./figure.js";

const LISTED_COUNT = 8;

export class Confusion {
  #path;
  #figure = new Figure(text.confusion.empty);
  #select = choice([], null);
  #list = element("ol", {});
  #side;
  #versions = [];
  #drawn = "";

  constructor(path) {
    this.#path = path;
    this.#select.setAttribute("aria-label", text.confusion.which);
    this.#select.addEventListener("change", () => this.#draw());
    this.#side = element("div", { class: "mistakes", hidden: true }, element("h3", {}, text.confusion.most), this.#list);
    this.element = element(
      "div",
      { class: "confusion" },
      element("div", { class: "confusion-main" }, this.#select, this.#figure.element, element("p", { class: "hint" }, text.confusion.hint)),
      this.#side,
    );
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
      versions.map((version) =>
        element("option", { value: String(version), selected: String(version) === chosen }, text.board.version(version)),
      ),
    );
    this.#draw();
  }

  async #draw() {
    const version = this.#select.value;
    if (version === this.#drawn && version !== "") return;
    this.#drawn = version;
    this.#side.hidden = version === "";
    if (version === "") return this.#figure.show(null);
    const path = `${this.#path}/models/${version}/confusion`;
    const [, numbers] = await Promise.allSettled([this.#figure.show(`${path}.svg`), get(path)]);
    // What can't be had now stays as it is, and is asked for again.
    if (numbers.status === "fulfilled") replaceChildren(this.#list, worst(numbers.value).map(row));
    else this.#drawn = "";
  }
}

/** The mistakes that are made most often, `{from, to, times, share}`; the share is of the class that is mistaken. */
function worst({ classes, counts }) {
  const mistakes = counts.flatMap((guesses, index) => {
    const total = guesses.reduce((sum, times) => sum + times, 0);
    return guesses.map((times, guess) => ({ from: classes[index], to: classes[guess], times, share: times / total, isRight: guess === index }));
  });
  const made = mistakes.filter((mistake) => !mistake.isRight && mistake.times > 0);
  return made.sort((a, b) => b.times - a.times).slice(0, LISTED_COUNT);
}

function row({ from, to, times, share }) {
  return element(
    "li",
    {},
    element("span", {}, text.confusion.mistake(from, to)),
    element("strong", {}, count(times)),
    element("span", { class: "hint" }, text.confusion.share(percent(share, 0), from)),
  );
}
