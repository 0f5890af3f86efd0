// How the labels spread over the classes. Owns the choice between one round and all of them.

import { barList } from "../charts.js";
import { element, replaceChildren } from "../dom.js";
import { choice } from "../form.js";
import { text } from "../text.js";

export class Balance {
  #classes;
  #rounds = [];
  #bars = element("div", {});
  #select;

  constructor(classes) {
    this.#classes = classes;
    this.#select = choice([["all", text.balance.all]], "all");
    this.#select.setAttribute("aria-label", text.balance.which);
    this.#select.addEventListener("change", () => this.#draw());
    this.element = element("div", {}, this.#select, this.#bars);
  }

  /** Takes the counts of `rounds`. */
  show(rounds) {
    this.#rounds = rounds;
    const chosen = this.#select.value;
    const options = [["all", text.balance.all], ...rounds.map((round) => [String(round.number), text.rounds.name(round.number)])];
    if (options.length !== this.#select.options.length) {
      replaceChildren(
        this.#select,
        options.map(([value, words]) => element("option", { value, selected: value === chosen }, words)),
      );
    }
    this.#draw();
  }

  #draw() {
    const rounds = this.#rounds.filter((round) => this.#select.value === "all" || String(round.number) === this.#select.value);
    const sums = new Map(this.#classes.map((entry) => [entry.name, 0]));
    for (const round of rounds) for (const { name, count } of round.classCounts) sums.set(name, (sums.get(name) ?? 0) + count);
    const colours = new Map(this.#classes.map((entry) => [entry.name, entry.colour]));
    const rows = Array.from(sums, ([name, count]) => ({ name, count, colour: colours.get(name) ?? "var(--muted)" }));
    const isEmpty = rows.every((row) => row.count === 0);
    replaceChildren(this.#bars, isEmpty ? element("p", { class: "nothing" }, text.balance.empty) : barList(rows, text.balance.title));
  }
}
