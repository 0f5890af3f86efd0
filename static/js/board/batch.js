// The part of a project's page that shows one round's batch: what was asked and why, how u and v spread, where in the pool it lies, which classes
// it held. Owns the choice of the round that all of these show.

import { get, page } from "../api.js";
import { element, replaceChildren } from "../dom.js";
import { choice } from "../form.js";
import { count } from "../format.js";
import { problemText } from "../shell.js";
import { text } from "../text.js";
import { Balance } from "./balance.js";
import { Figure } from "./figure.js";
import { Gallery, explain } from "./gallery.js";
import { panel } from "./panel.js";
import { PoolMap } from "./pool_map.js";

/** Labels trickle in one by one; the map, which is large, is read again this long after the last time at the earliest. */
const MAP_MS = 15_000;

export class Batch {
  #path;
  #select = choice([], null);
  #facts = element("p", { class: "hint", role: "status" });
  #gallery;
  #balance;
  #map;
  #uncertainty = new Figure(text.scores.noUncertainty);
  #losses = new Figure(text.scores.noLosses);
  #rounds = [];
  #number = null;
  #follows = true;
  #isVisible = false;
  #drawn = null;
  #mapAt = 0;

  /** `classes` come from `dealKeys`. */
  constructor(path, classes) {
    this.#path = path;
    this.#gallery = new Gallery(path, classes);
    this.#balance = new Balance(classes);
    this.#map = new PoolMap(classes, (item) => this.#explainItem(item));
    this.#select.setAttribute("aria-label", text.gallery.which);
    this.#select.addEventListener("change", () => this.choose(Number(this.#select.value)));
    const stack = (...panels) => element("div", { class: "stack" }, panels);
    this.element = element(
      "div",
      { class: "split" },
      element("div", { class: "row part-head" }, this.#select, this.#facts),
      stack(panel(text.gallery.title, this.#gallery.element), panel(text.map.title, this.#map.element)),
      stack(
        panel(text.balance.title, this.#balance.element),
        panel(text.scores.uncertainty, this.#uncertainty.element),
        panel(text.scores.losses, this.#losses.element),
      ),
    );
  }

  /** Offers `rounds`, the newest first, and shows the newest unless another was chosen. */
  show(rounds) {
    this.#rounds = rounds.filter((round) => round.number > 0);
    if (this.#rounds.length === 0) {
      this.#select.hidden = true;
      this.#facts.textContent = text.gallery.empty;
      return;
    }
    this.#select.hidden = false;
    if (this.#number === null || this.#follows) this.#number = this.#rounds[0].number;
    if (this.#select.options.length !== this.#rounds.length) {
      replaceChildren(
        this.#select,
        this.#rounds.map((round) => element("option", { value: String(round.number) }, text.rounds.name(round.number))),
      );
    }
    this.#select.value = String(this.#number);
    this.#draw();
  }

  /** Shows the batch of round `number` until another is chosen. */
  choose(number) {
    this.#follows = this.#rounds[0]?.number === number;
    this.#number = number;
    this.#select.value = String(number);
    this.#draw();
  }

  /** Nothing is read while nobody looks. */
  setVisible(isVisible) {
    this.#isVisible = isVisible;
    this.#draw();
  }

  #draw() {
    const round = this.#rounds.find((other) => other.number === this.#number);
    if (!this.#isVisible || !round) return;
    this.#balance.show(this.#rounds, round);
    this.#facts.textContent = text.gallery.facts(
      text.strategies[round.strategy] ?? round.strategy,
      text.progress.of(count(round.answeredCount), count(round.taskCount)),
    );
    // The pictures are only read again when the batch itself changed or was finished; answers change single tiles.
    const stamp = `${round.number}:${round.taskCount}:${round.state}`;
    const isNew = stamp !== this.#drawn;
    if (isNew) {
      this.#drawn = stamp;
      this.#gallery.show(round);
      this.#showScores(round);
    } else this.#gallery.refresh();
    if (isNew || Date.now() - this.#mapAt >= MAP_MS) this.#showMap(round);
  }

  async #showScores(round) {
    const base = `${this.#path}/rounds/${round.number}/scores.svg`;
    const draw = (figure, measure) => figure.show(`${base}?measure=${measure}`).catch(() => {});
    await Promise.all([draw(this.#uncertainty, "uncertainty"), draw(this.#losses, "pretext_loss")]);
  }

  async #showMap(round) {
    this.#mapAt = Date.now();
    try {
      const map = await get(`${this.#path}/rounds/${round.number}/map`);
      if (round.number === this.#number) this.#map.show(map);
    } catch (error) {
      // A round of an older gleaner, or one whose choice needed no embedding, has no map.
      if (error.status === 404) this.#map.show(null);
      else this.#facts.textContent = problemText(error);
    }
  }

  /** A point of the map that the batch asks is explained like its tile; any other is only shown. */
  async #explainItem(item) {
    const task = this.#gallery.find(item) ?? (await this.#search(item));
    explain(task ?? { item });
  }

  async #search(item) {
    for (let after = null; ; ) {
      const part = await page(`${this.#path}/rounds/${this.#number}/tasks`, { limit: 1000, after });
      const task = part.items.find((other) => other.item === item);
      after = part.next;
      if (task || !after) return task;
    }
  }
}
