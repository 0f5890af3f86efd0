// The images of one round's batch, each with why it was asked. Owns the walk through the round's tasks, a part at a time.

import { itemImage, page } from "../api.js";
import { element, replaceChildren } from "../dom.js";
import { choice } from "../form.js";
import { score } from "../format.js";
import { openDialog, problemText } from "../shell.js";
import { strategyName } from "../shapes.js";
import { text } from "../text.js";

const PART_COUNT = 48;

export class Gallery {
  #path;
  #select;
  #grid = element("ul", { class: "gallery", tabindex: "0", "aria-label": text.gallery.title });
  #more = element("button", { type: "button", class: "button", hidden: true }, text.gallery.more);
  #note = element("p", { class: "hint", role: "status" });
  #next = null;
  #number = null;
  #loadNumber = 0;
  #follow = true;
  #stamp = "";

  constructor(path) {
    this.#path = path;
    this.#select = choice([], null);
    this.#select.setAttribute("aria-label", text.gallery.which);
    this.#select.addEventListener("change", () => this.choose(Number(this.#select.value)));
    this.#more.addEventListener("click", () => this.#load(this.#next));
    this.element = element("div", {}, element("div", { class: "row" }, this.#select, this.#note), this.#grid, this.#more);
  }

  /** Offers `rounds`, the newest first, and shows the newest unless another was chosen. */
  show(rounds) {
    const withTasks = rounds.filter((round) => round.number > 0);
    if (withTasks.length === 0) {
      this.#note.textContent = text.gallery.empty;
      this.#select.hidden = true;
      return;
    }
    this.#select.hidden = false;
    const newest = withTasks[0];
    if (this.#number === null || this.#follow) this.#number = newest.number;
    replaceChildren(
      this.#select,
      withTasks.map((round) =>
        element("option", { value: String(round.number), selected: round.number === this.#number }, text.rounds.name(round.number)),
      ),
    );
    const round = withTasks.find((other) => other.number === this.#number);
    // Labels trickle in one by one; the pictures are only read again when the batch itself changed or was finished.
    const stamp = `${this.#number}:${round?.taskCount}:${round?.state}`;
    if (stamp !== this.#stamp) {
      this.#stamp = stamp;
      this.#load();
    }
  }

  /** Shows the batch of round `number` until another is chosen. */
  choose(number) {
    this.#follow = this.#select.options[0]?.value === String(number);
    this.#number = number;
    this.#select.value = String(number);
    this.#stamp = "";
    this.#load();
  }

  async #load(after = null) {
    const turn = ++this.#loadNumber;
    try {
      const part = await page(`${this.#path}/rounds/${this.#number}/tasks`, { limit: PART_COUNT, after });
      if (turn !== this.#loadNumber) return;
      const tiles = part.items.map((task) => tile(task));
      if (after) this.#grid.append(...tiles);
      else replaceChildren(this.#grid, tiles);
      this.#next = part.next;
      this.#more.hidden = !part.next;
      this.#note.textContent = this.#grid.children.length === 0 ? text.gallery.empty : "";
    } catch (error) {
      if (turn === this.#loadNumber) this.#note.textContent = problemText(error);
    }
  }
}

function tile(task) {
  const words = text.gallery.tile(task.rank + 1, text.sources[task.source] ?? task.source);
  return element(
    "li",
    { class: `tile ${task.state}` },
    element(
      "button",
      { type: "button", "aria-label": words, title: words, on: { click: () => explain(task) } },
      element("img", { src: task.image_url ?? itemImage(task.item), alt: "", loading: "lazy", decoding: "async" }),
      element(
        "span",
        { class: "tile-head" },
        element("span", {}, `#${task.rank + 1}`),
        element("span", { class: `badge ${task.source}` }, text.sources[task.source] ?? task.source),
      ),
      measure("u", task.uncertainty),
      measure("v", task.pretext_loss),
      task.class
        ? element("span", { class: "tile-class" }, task.class)
        : element("span", { class: "tile-class hint" }, text.taskStates[task.state] ?? task.state),
    ),
  );
}

function measure(name, value) {
  return element("span", { class: "measure" }, element("span", {}, name), element("span", {}, score(value ?? NaN)));
}

function explain(task) {
  const strategy = strategyName(task.strategy);
  const rows = [
    [text.gallery.source, text.sourceReasons[task.source] ?? task.source],
    [text.gallery.strategy, text.strategies[strategy] ?? strategy ?? "–"],
    [text.gallery.rank, String(task.rank + 1)],
    [text.gallery.score, score(task.score ?? NaN)],
    [text.gallery.uncertainty, score(task.uncertainty ?? NaN)],
    [text.gallery.pretextLoss, score(task.pretext_loss ?? NaN)],
    [
      text.gallery.model,
      task.model_version === null || task.model_version === undefined ? text.gallery.noModel : text.board.version(task.model_version),
    ],
    [text.gallery.state, text.taskStates[task.state] ?? task.state],
  ];
  const list = element(
    "dl",
    { class: "why" },
    rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
  const image = element("img", { class: "why-image", src: task.image_url ?? itemImage(task.item), alt: text.gallery.alt });
  openDialog({ title: text.gallery.why, body: element("div", { class: "why-body" }, image, list), wide: true });
}
