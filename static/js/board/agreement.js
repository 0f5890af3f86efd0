// How far people agree on the images that several of them judged: as a whole, by class, and by pair. Owns the words for the coefficients.

import { barList } from "../bars.js";
import { element, replaceChildren } from "../dom.js";
import { count, score } from "../format.js";
import { table } from "../table.js";
import { text } from "../text.js";
import { figure } from "./panel.js";

/** Krippendorff's own bounds: above the first conclusions may be tentative, above the second they hold. */
const TENTATIVE = 0.667;
const RELIABLE = 0.8;

export class Agreement {
  #colours;

  /** `classes` come from `dealKeys`. */
  constructor(classes) {
    this.#colours = new Map(classes.map((entry) => [entry.name, entry.colour]));
    this.element = element("div", { class: "agreement" });
  }

  /** Shows the service's `agreement`. */
  show(agreement) {
    if (agreement.item_count === 0) {
      replaceChildren(this.element, element("p", { class: "nothing" }, text.agreement.empty));
      return;
    }
    const words = text.agreement;
    const alpha = agreement.krippendorff_alpha;
    replaceChildren(
      this.element,
      element(
        "dl",
        { class: "figures" },
        figure(words.alpha, score(alpha ?? NaN), alpha === null ? words.undefined : words.levels[levelOf(alpha)]),
        figure(words.fleiss, score(agreement.fleiss_kappa ?? NaN), words.sameForAll),
        figure(words.shared, count(agreement.item_count), words.votes(count(agreement.vote_count))),
      ),
      element(
        "div",
        { class: "agreement-parts" },
        element("div", {}, element("h3", {}, words.byClass), this.#classes(agreement.classes)),
        agreement.pairs.length > 0 && element("div", {}, element("h3", {}, words.byPair), pairs(agreement)),
      ),
    );
  }

  #classes(classes) {
    const rows = classes
      .map(({ class: name, vote_count, krippendorff_alpha: alpha }) => ({
        name,
        count: Math.max(0, alpha ?? 0),
        colour: this.#colours.get(name) ?? "var(--muted)",
        words: score(alpha ?? NaN),
        title: text.agreement.votesFor(count(vote_count), name),
      }))
      .sort((a, b) => a.count - b.count);
    return barList(rows, text.agreement.byClass, 1);
  }
}

function levelOf(alpha) {
  return alpha >= RELIABLE ? "reliable" : alpha >= TENTATIVE ? "tentative" : "low";
}

/** The pairs who agree least come first. */
function pairs({ pairs, labelers }) {
  const nameOf = ({ labeler, person }) => person ?? labelers.find((one) => one.labeler === labeler)?.name ?? "–";
  const rows = [...pairs].sort((a, b) => (a.cohen_kappa ?? 2) - (b.cohen_kappa ?? 2));
  const body = rows.map((pair) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, text.agreement.pair(nameOf(pair.first), nameOf(pair.second))),
      element("td", { class: "number" }, count(pair.item_count)),
      element("td", { class: "number" }, score(pair.cohen_kappa ?? NaN)),
    ),
  );
  return element(
    "div",
    { class: "table-frame", tabindex: "0", role: "group", "aria-label": text.agreement.byPair },
    table(text.agreement.pairColumns, body),
  );
}
