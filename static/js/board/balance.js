// How a batch spreads over the classes. Owns the choice between the round in sight and all rounds; a batch that isn't labelled yet is shown by
// the model's guesses.

import { barList } from "../bars.js";
import { element, replaceChildren } from "../dom.js";
import { choice } from "../form.js";
import { text } from "../text.js";

export class Balance {
  #classes;
  #rounds = [];
  #round = null;
  #bars = element("div", {});
  #select = choice(text.balance.choices, "round");
  #isChosen = false;

  /** `classes` come from `dealKeys`. */
  constructor(classes) {
    this.#classes = classes;
    this.#select.setAttribute("aria-label", text.balance.which);
    this.#select.addEventListener("change", () => {
      this.#isChosen = true;
      this.#draw();
    });
    this.element = element("div", { class: "balance" }, this.#select, this.#bars);
  }

  /** Takes the counts of `rounds`, of which `round` is in sight. */
  show(rounds, round) {
    this.#rounds = rounds;
    this.#round = round;
    const hasLabels = round.classCounts.some(({ count: labelled }) => labelled > 0);
    if (!this.#isChosen) this.#select.value = !hasLabels && round.predictedClassCounts.length > 0 ? "guessed" : "round";
    this.#draw();
  }

  #draw() {
    const chosen = this.#select.value;
    const counts = {
      round: [this.#round.classCounts],
      guessed: [this.#round.predictedClassCounts],
      all: this.#rounds.map((round) => round.classCounts),
    }[chosen];
    const sums = new Map(this.#classes.map((entry) => [entry.name, 0]));
    for (const { name, count } of counts.flat()) sums.set(name, (sums.get(name) ?? 0) + count);
    const colours = new Map(this.#classes.map((entry) => [entry.name, entry.colour]));
    const rows = Array.from(sums, ([name, count]) => ({ name, count, colour: colours.get(name) ?? "var(--muted)" }));
    const isEmpty = rows.every((row) => row.count === 0);
    replaceChildren(this.#bars, isEmpty ? element("p", { class: "nothing" }, text.balance.empty) : barList(rows, text.balance.title));
  }
}
