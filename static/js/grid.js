// Many images at once, each under the model's guess: whoever works marks those that are wrong and confirms the rest. Owns the marks, the number
// of images and the keys between them. What is marked isn't answered here: the page shows it alone afterwards.

import { element, replaceChildren } from "./dom.js";
import { percent } from "./format.js";
import { text } from "./text.js";

/** Images at once: squares of three to six. */
const SIZES = [9, 16, 25, 36];
const STORE = "gleaner.grid";

export class Grid {
  #tasks = [];
  #wrong = new Set();
  #classes;
  #confirm;
  #size = readSize();
  #resized;
  #tiles = element("ul", { class: "grid-tiles" });
  #buttons;

  /**
   * `classes` come from `dealKeys`; `confirm` gets `[{task, entry}]` that are right, and the tasks that are wrong; `resized` is called when
   * another number of images is wanted.
   */
  constructor(classes, confirm, resized) {
    this.#classes = new Map(classes.map((entry) => [entry.name, entry]));
    this.#confirm = confirm;
    this.#resized = resized;
    this.#buttons = SIZES.map((size) =>
      element("button", { type: "button", class: "segment", on: { click: () => this.#resize(size) } }, String(size)),
    );
    const yes = element(
      "button",
      { type: "button", class: "button primary", on: { click: () => this.confirm() } },
      text.grid.confirm,
      element("kbd", { "aria-hidden": "true" }, "↵"),
    );
    this.element = element(
      "div",
      { class: "grid-frame" },
      this.#tiles,
      element(
        "div",
        { class: "row grid-end" },
        element("div", { class: "segments", role: "group", "aria-label": text.grid.size }, this.#buttons),
        element("span", { class: "hint" }, text.grid.hint),
        yes,
      ),
    );
    this.#tiles.addEventListener("keydown", (event) => this.#press(event));
    this.#showSize();
  }

  /** How many images are shown at once. */
  get size() {
    return this.#size;
  }

  /** Whether a task can stand in the grid: it has a guess, and its image loads. */
  fits(task) {
    return !task.isBroken && this.#classes.has(task.suggestions?.[0]?.class);
  }

  /** Shows `tasks`; marks of tasks that are shown already stay. */
  show(tasks) {
    const isSame = tasks.length === this.#tasks.length && tasks.every((task, index) => task === this.#tasks[index]);
    if (isSame) return;
    const focused = [...this.#tiles.children].findIndex((tile) => tile.contains(document.activeElement));
    this.#tasks = tasks;
    this.#wrong = new Set([...this.#wrong].filter((task) => tasks.includes(task)));
    replaceChildren(
      this.#tiles,
      tasks.map((task, index) => this.#tile(task, index)),
    );
    this.#tiles.children[focused]?.firstChild.focus();
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

  /** Moves the focus between images; with none focused, to the first. */
  move(key) {
    const edge = Math.sqrt(this.#size);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: edge, ArrowUp: -edge }[key];
    const at = [...this.#tiles.children].findIndex((tile) => tile.contains(document.activeElement));
    const to = at < 0 ? 0 : at + step;
    this.#tiles.children[to]?.firstChild.focus();
  }

  #press(event) {
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    event.stopPropagation();
    this.move(event.key);
  }

  #resize(size) {
    this.#size = size;
    try {
      localStorage.setItem(STORE, String(size));
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    this.#showSize();
    this.#resized();
  }

  #showSize() {
    this.#tiles.style.setProperty("--grid-edge", String(Math.sqrt(this.#size)));
    this.#buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(SIZES[index] === this.#size)));
  }

  #guess(task) {
    return this.#classes.get(task.suggestions[0].class);
  }

  #tile(task, index) {
    const entry = this.#guess(task);
    const button = element(
      "button",
      { type: "button", class: "grid-tile", vars: { "--class-colour": entry.colour }, on: { click: () => this.toggle(index) } },
      element("img", { src: task.image_url, alt: "", decoding: "sync", draggable: "false" }),
      element(
        "span",
        { class: "grid-guess" },
        index < 9 && this.#size === 9 ? element("kbd", { "aria-hidden": "true" }, String(index + 1)) : null,
        element("span", { class: "grid-name" }, entry.name),
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

function readSize() {
  try {
    const size = Number(localStorage.getItem(STORE));
    return SIZES.includes(size) ? size : SIZES[0];
  } catch {
    return SIZES[0];
  }
}
