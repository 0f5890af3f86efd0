// The table of rounds. Owns its rows; a row leads to its batch in the gallery.

import { element, replaceChildren } from "../dom.js";
import { count, dayAndTime, percent } from "../format.js";
import { table } from "../table.js";
import { text } from "../text.js";
import { span } from "./summary.js";

/** What would be written as 0.0. */
const LEAST_GAIN = 0.0005;

export class Rounds {
  #choose;

  constructor(choose) {
    this.#choose = choose;
    this.element = element("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": text.rounds.title });
  }

  /** Shows `rounds`, the newest first. */
  show(rounds) {
    if (rounds.length === 0) {
      replaceChildren(this.element, element("p", { class: "nothing" }, text.rounds.empty));
      return;
    }
    const rows = rounds.map((round, index) => this.#row(round, rounds[index + 1]));
    replaceChildren(this.element, table(text.rounds.columns, rows));
  }

  #row(round, before) {
    const gain =
      Number.isFinite(round.testAccuracy) && Number.isFinite(before?.testAccuracy) ? round.testAccuracy - before.testAccuracy : null;
    return element(
      "tr",
      {},
      element(
        "th",
        { scope: "row" },
        element("button", { type: "button", class: "link", on: { click: () => this.#choose(round) } }, text.rounds.name(round.number)),
      ),
      element("td", {}, element("span", { class: `badge ${round.state}` }, text.roundStates[round.state] ?? round.state)),
      element("td", {}, text.strategies[round.strategy] ?? round.strategy ?? "–"),
      element("td", { class: "number rounds-answered" }, text.progress.of(count(round.answeredCount), count(round.taskCount))),
      element(
        "td",
        { class: "number" },
        percent(round.testAccuracy),
        gain !== null && Math.abs(gain) >= LEAST_GAIN && element("span", { class: gain > 0 ? "gain" : "gain down" }, signed(gain)),
      ),
      element("td", {}, dayAndTime(round.openedAt)),
      element("td", { class: "number" }, span(round.openedAt, round.closedAt)),
    );
  }
}

function signed(gain) {
  return `${gain >= 0 ? "+" : "−"}${Math.abs(gain * 100).toFixed(1)}`;
}
