// Labels that look wrong, each with its image: models that hadn't seen an image think that it is something else. Owns the sheet and the question
// which class it is after all.

import { call, itemImage } from "../api.js";
import { askClass } from "../class_choice.js";
import { element } from "../dom.js";
import { count, percent } from "../format.js";
import { toast, toastProblem } from "../shell.js";
import { text } from "../text.js";
import { VirtualGrid, latePicture } from "../virtual_grid.js";

export class Suspects {
  #classes;
  #colours;
  #changed;
  #grid;
  #facts = element("p", { class: "hint", role: "status" });
  #shown = "";

  /** `classes` come from `dealKeys`; `changed` is called after a class was corrected. */
  constructor(classes, changed) {
    this.#classes = classes;
    this.#colours = new Map(classes.map((entry) => [entry.name, entry.colour]));
    this.#changed = changed;
    this.#grid = new VirtualGrid({
      label: text.suspects.title,
      least: 146,
      extra: 78,
      make: (suspect) => this.#tile(suspect),
      wantMore: () => {},
    });
    this.element = element("div", { class: "gallery-frame" }, this.#facts, this.#grid.element);
  }

  /** Shows what the last audit suspects and still stands. */
  show({ audit, suspected_errors: suspects }) {
    this.#facts.textContent = describe(audit, suspects.length);
    this.#grid.element.hidden = suspects.length === 0;
    this.element.classList.toggle("is-short", suspects.length <= 16);
    // An unchanged list keeps the reader's place.
    const shown = JSON.stringify(suspects);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#grid.show(suspects, suspects.length);
  }

  #tile(suspect) {
    const words = text.suspects.tile(suspect.class, suspect.suggested_class);
    return element(
      "button",
      { type: "button", class: "tile", "aria-label": words, title: words, on: { click: () => this.#ask(suspect) } },
      latePicture(itemImage(suspect.item)),
      this.#line(suspect.class, "given"),
      this.#line(suspect.suggested_class, "suggested", percent(suspect.suggested_probability, 0)),
      suspect.asked_again && element("span", { class: "badge relabel" }, text.suspects.askedAgain),
    );
  }

  #line(name, kind, share = null) {
    return element(
      "span",
      { class: `tile-class ${kind}`, vars: { "--class-colour": this.#colours.get(name) ?? "var(--muted)" } },
      element("span", { class: "swatch" }),
      element("span", { class: "tile-name" }, name),
      share && element("span", { class: "hint" }, share),
    );
  }

  #ask(suspect) {
    const [label, ...others] = suspect.labels;
    const canCorrect = label !== undefined && others.length === 0;
    const words = text.suspects;
    askClass({
      title: canCorrect ? words.ask : words.look,
      image: element("img", { src: itemImage(suspect.item), alt: text.suspects.alt }),
      classes: canCorrect ? this.#classes : this.#classes.filter(({ name }) => name === suspect.class || name === suspect.suggested_class),
      current: suspect.class,
      note: element(
        "div",
        { class: "hint correction-note" },
        element("p", {}, suspect.name),
        element("p", {}, words.has(suspect.class, percent(suspect.given_probability, 0))),
        element("p", {}, words.looksLike(suspect.suggested_class, percent(suspect.suggested_probability, 0))),
        suspect.asked_again && element("p", {}, words.askedAgainLong),
        !canCorrect && element("p", {}, words.cannot),
      ),
      choose: (to) => canCorrect && to.name !== suspect.class && this.#correct(label, to),
    });
  }

  async #correct(label, to) {
    try {
      await call("PUT", `/labels/${encodeURIComponent(label)}`, { body: { class: to.name } });
      toast(text.label.corrected(to.name));
      await this.#changed();
    } catch (error) {
      toastProblem(error);
    }
  }
}

function describe(audit, suspectCount) {
  if (audit === null) return text.suspects.noAudit;
  const facts = text.suspects.facts(audit.round, count(audit.item_count), percent(audit.out_of_fold_accuracy, 0));
  return suspectCount === 0 ? `${facts} ${text.suspects.none}` : `${facts} ${text.suspects.some(count(suspectCount))}`;
}
