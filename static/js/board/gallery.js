// The images of one round's batch, each with why it was asked. Owns the tiles and the dialog that explains one.

import { itemImage } from "../api.js";
import { element } from "../dom.js";
import { percent, score } from "../format.js";
import { PagedGrid } from "../paged_grid.js";
import { openDialog } from "../shell.js";
import { strategyName } from "../shapes.js";
import { text } from "../text.js";
import { latePicture } from "../virtual_grid.js";

export class Gallery {
  #path;
  #grid;

  /** `classes` come from `dealKeys`. */
  constructor(path, classes) {
    const colours = new Map(classes.map((entry) => [entry.name, entry.colour]));
    this.#path = path;
    this.#grid = new PagedGrid({
      label: text.gallery.title,
      empty: text.gallery.empty,
      least: 118,
      extra: 70,
      shortCount: 12,
      make: (task) => tile(task, colours),
      keyOf: (task) => task.task,
      // What was asked ahead and not taken up was withdrawn when the round opened: nobody sees it.
      keep: (task) => task.state !== "withdrawn",
      differs: (task, fresh) => fresh.state !== task.state || fresh.class !== task.class,
    });
    this.element = this.#grid.element;
  }

  /** Shows the batch of `round` from its begin. */
  show(round) {
    this.#grid.show(`${this.#path}/rounds/${round.number}/tasks`, round.taskCount);
  }

  /** Looks up what became of the tasks in sight. */
  refresh() {
    return this.#grid.refresh();
  }

  /** The task that asks `item`, if it was read already. */
  find(item) {
    return this.#grid.find((task) => task.item === item);
  }
}

function tile(task, colours) {
  const source = text.sources[task.source] ?? task.source;
  const words = text.gallery.tile(task.rank + 1, source);
  const known = task.class ?? null;
  return element(
    "button",
    { type: "button", class: `tile ${task.state}`, "aria-label": words, title: words, on: { click: () => explain(task) } },
    latePicture(itemImage(task.item)),
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
