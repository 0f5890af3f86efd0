// The images of one round's batch, each with why it was asked. Owns the walk through the round's tasks, a page at a time, and the dialog that
// explains one.

import { itemImage, page } from "../api.js";
import { element } from "../dom.js";
import { percent, score } from "../format.js";
import { openDialog, problemText } from "../shell.js";
import { strategyName } from "../shapes.js";
import { text } from "../text.js";
import { VirtualGrid } from "../virtual_grid.js";

const PAGE_COUNT = 200;
/** Answers change single tiles; they are looked up again this long after the last time at the earliest. */
const REFRESH_MS = 3000;

export class Gallery {
  #path;
  #colours;
  #grid;
  #note = element("p", { class: "hint", role: "status" });
  #tasks = new Map();
  #number = null;
  #next = null;
  #turn = 0;
  #isLoading = false;
  #refreshedAt = 0;

  /** `classes` come from `dealKeys`. */
  constructor(path, classes) {
    this.#path = path;
    this.#colours = new Map(classes.map((entry) => [entry.name, entry.colour]));
    this.#grid = new VirtualGrid({
      label: text.gallery.title,
      least: 118,
      extra: 70,
      make: (task) => tile(task, this.#colours),
      wantMore: () => this.#load(),
    });
    this.element = element("div", { class: "gallery-frame" }, this.#grid.element, this.#note);
  }

  /** Shows the batch of `round` from its begin. */
  show(round) {
    this.#turn += 1;
    this.#number = round.number;
    this.#tasks.clear();
    this.#next = null;
    this.#isLoading = false;
    this.#load(round.taskCount);
  }

  /** Looks up what became of the tasks that are shown. */
  async refresh() {
    const turn = this.#turn;
    if (this.#isLoading || Date.now() - this.#refreshedAt < REFRESH_MS) return;
    this.#refreshedAt = Date.now();
    const part = await this.#read(null, Math.min(1000, Math.max(PAGE_COUNT, this.#grid.count)));
    if (!part || turn !== this.#turn) return;
    for (const task of part.items) if (this.#tasks.has(task.task)) this.#tasks.set(task.task, task);
    this.#grid.update((task) => {
      const fresh = this.#tasks.get(task.task);
      return fresh && (fresh.state !== task.state || fresh.class !== task.class) ? fresh : null;
    });
  }

  /** The task that asks `item`, if it was read already. */
  find(item) {
    return [...this.#tasks.values()].find((task) => task.item === item);
  }

  async #load(total = null) {
    const isFirst = total !== null;
    if (this.#isLoading || (!isFirst && this.#next === null)) return;
    this.#isLoading = true;
    const turn = this.#turn;
    const part = await this.#read(this.#next, PAGE_COUNT);
    if (turn !== this.#turn) return;
    this.#isLoading = false;
    if (!part) return;
    this.#next = part.next;
    // What was asked ahead and not taken up was withdrawn when the round opened: nobody sees it.
    const asked = part.items.filter((task) => task.state !== "withdrawn");
    for (const task of asked) this.#tasks.set(task.task, task);
    if (isFirst) this.#grid.show(asked, total);
    else this.#grid.append(asked);
    this.#note.textContent = this.#grid.count === 0 ? text.gallery.empty : "";
    // Gold and asked-again tasks come on top of the batch's own count.
    this.element.classList.toggle("is-short", this.#grid.count <= 12 && this.#next === null);
  }

  async #read(after, limit) {
    try {
      return await page(`${this.#path}/rounds/${this.#number}/tasks`, { limit, after });
    } catch (error) {
      this.#note.textContent = problemText(error);
      this.#isLoading = false;
      return null;
    }
  }
}

function tile(task, colours) {
  const source = text.sources[task.source] ?? task.source;
  const words = text.gallery.tile(task.rank + 1, source);
  const known = task.class ?? null;
  return element(
    "button",
    { type: "button", class: `tile ${task.state}`, "aria-label": words, title: words, on: { click: () => explain(task) } },
    element("img", { src: itemImage(task.item), alt: "", loading: "lazy", decoding: "async" }),
    element(
      "span",
      { class: "tile-head" },
      element("span", {}, `#${task.rank + 1}`),
      task.source === "query" ? null : element("span", { class: `badge ${task.source}` }, source),
    ),
    element("span", { class: "measures" }, measure("u", task.uncertainty), measure("v", task.pretext_loss)),
    known
      ? element(
          "span",
          { class: "tile-class", vars: { "--class-colour": colours.get(known) ?? "var(--muted)" } },
          element("span", { class: "swatch" }),
          known,
        )
      : element("span", { class: "tile-class hint" }, text.taskStates[task.state] ?? task.state),
  );
}

function measure(name, value) {
  return element("span", { class: "measure" }, element("i", {}, name), score(value ?? NaN));
}

/** Opens why an image was asked; a task that only names its item shows the image alone. */
export function explain(task) {
  const image = element("img", { class: "why-image", src: itemImage(task.item), alt: text.gallery.alt });
  if (!task.task) {
    openDialog({ title: text.gallery.notAsked, body: element("div", { class: "why-body" }, image, element("p", {}, text.gallery.notAskedBody)), wide: true });
    return;
  }
  const strategy = strategyName(task.strategy);
  const guesses = (task.suggestions ?? []).map((guess) => `${guess.class} ${percent(guess.probability, 0)}`).join(", ");
  const rows = [
    [text.gallery.source, text.sourceReasons[task.source] ?? task.source],
    [text.gallery.strategy, text.strategies[strategy] ?? strategy ?? "–"],
    [text.gallery.rank, String(task.rank + 1)],
    [text.gallery.score, score(task.score ?? NaN)],
    [text.gallery.uncertainty, score(task.uncertainty ?? NaN)],
    [text.gallery.pretextLoss, score(task.pretext_loss ?? NaN)],
    [text.gallery.guess, guesses || "–"],
    [
      text.gallery.model,
      task.model_version === null || task.model_version === undefined ? text.gallery.noModel : text.board.version(task.model_version),
    ],
    [text.gallery.state, task.class ?? text.taskStates[task.state] ?? task.state],
    [text.gallery.item, task.name ?? "–"],
  ];
  const list = element(
    "dl",
    { class: "why" },
    rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
  openDialog({ title: text.gallery.why, body: element("div", { class: "why-body" }, image, list), wide: true });
}
