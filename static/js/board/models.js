// The versions of the model, each with its download.

import { address } from "../api.js";
import { element, icon, replaceChildren } from "../dom.js";
import { count, dayAndTime, percent } from "../format.js";
import { text } from "../text.js";

export class Models {
  #path;

  constructor(path) {
    this.#path = path;
    this.element = element("div", {});
  }

  /** Shows `models`, the newest first. */
  show(models) {
    if (models.length === 0) {
      replaceChildren(this.element, element("p", { class: "nothing" }, text.models.empty));
      return;
    }
    const rows = [...models].sort((a, b) => b.version - a.version).map((model) => this.#row(model));
    replaceChildren(this.element, element("ul", { class: "models" }, rows));
  }

  #row(model) {
    const facts = [
      percent(model.test_accuracy ?? NaN),
      Number.isFinite(model.label_count) && text.models.labels(count(model.label_count)),
      model.created_at && dayAndTime(model.created_at),
    ];
    const name = text.board.version(model.version);
    return element(
      "li",
      {},
      element("div", {}, element("strong", {}, name), element("span", { class: "hint" }, facts.filter(Boolean).join(" · "))),
      element(
        "a",
        {
          class: "icon-button",
          href: address(`${this.#path}/models/${model.version}/weights`),
          download: true,
          "aria-label": text.models.download(name),
          title: text.models.download(name),
        },
        icon("download"),
      ),
    );
  }
}
