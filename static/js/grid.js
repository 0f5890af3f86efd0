// Many images at once, each under the model's guess: whoever works marks those that are wrong and confirms the rest. Owns the marks.
// What is marked isn't answered here: the page shows it alone afterwards.

import { element, replaceChildren } from "./dom.js";
import { percent } from "./format.js";
import { text } from "./text.js";

/** Images at once: three rows of three; the digits mark them. */
export const GRID_COUNT = 9;

export class Grid {
  #tasks = [];
  #wrong = new Set();
  #classes;
  #confirm;
  #tiles = element("ul", { class: "grid-tiles" });

  /** `classes` come from `dealKeys`; `confirm` gets `[{task, entry}]` that are right, and the tasks that are wrong. */
  constructor(classes, confirm) {
    this.#classes = new Map(classes.map((entry) => [entry.name, entry]));
    this.#confirm = confirm;
    const button = element(
      "button",
      { type: "button", class: "button primary", on: { click: () => this.confirm() } },
      text.grid.confirm,
      element("kbd", { "aria-hidden": "true" }, "↵"),
    );
    this.element = element(
      "div",
      { class: "grid-frame" },
      this.#tiles,
      element("div", { class: "row grid-end" }, element("span", { class: "hint" }, text.grid.hint), button),
    );
  }

  /** Whether a task can stand in the grid: it has a guess, and its image loads. */
  fits(task) {
    return !task.isBroken && this.#classes.has(task.suggestions?.[0]?.class);
  }

  /** Shows `tasks`; marks of tasks that are shown already stay. */
  show(tasks) {
    const isSame = tasks.length === this.#tasks.length && tasks.every((task, index) => task === this.#tasks[index]);
    if (isSame) return;
    this.#tasks = tasks;
    this.#wrong = new Set([...this.#wrong].filter((task) => tasks.includes(task)));
    replaceChildren(
      this.#tiles,
      tasks.map((task, index) => this.#tile(task, index)),
    );
  }

  /** Marks the image at `index` as wrong, or takes the mark away. */
  toggle(index) {
    const task = this.#tasks[index];
    if (!task) return;
    if (!this.#wrong.delete(task)) this.#wrong.add(task);
    this.#mark(this.#tiles.children[index].firstChild, this.#wrong.has(task));
  }

  /** Confirms what isn't marked; nothing happens while an image still loads, since nobody can have seen it. */
  confirm() {
    if (this.#tasks.length === 0 || !this.#tasks.every((task) => task.isLoaded || task.isBroken)) return;
    const isWrong = (task) => this.#wrong.has(task) || task.isBroken;
    const right = this.#tasks.filter((task) => !isWrong(task)).map((task) => ({ task, entry: this.#guess(task) }));
    const wrong = this.#tasks.filter(isWrong);
    this.#tasks = [];
    this.#wrong.clear();
    this.#confirm(right, wrong);
  }

  #guess(task) {
    return this.#classes.get(task.suggestions[0].class);
  }

  #tile(task, index) {
    const entry = this.#guess(task);
    const button = element(
      "button",
      { type: "button", class: "grid-tile", vars: { "--class-colour": entry.colour }, on: { click: () => this.toggle(index) } },
      element("img", { src: task.image_url, alt: "", decoding: "async" }),
      element(
        "span",
        { class: "grid-guess" },
        element("kbd", { "aria-hidden": "true" }, String(index + 1)),
        element("span", {}, entry.name),
        element("span", { class: "guess" }, percent(task.suggestions[0].probability, 0)),
      ),
    );
    this.#mark(button, this.#wrong.has(task));
    return element("li", {}, button);
  }

  #mark(button, isWrong) {
    button.classList.toggle("wrong", isWrong);
    button.setAttribute("aria-pressed", String(isWrong));
  }
}
