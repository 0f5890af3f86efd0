// What a labeler looks up while working: the project's guidelines beside the image, and the keys. Owns both, and how a phone shows them.

import { element, replaceChildren } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { openDialog } from "./shell.js";
import { text } from "./text.js";

export class Guidelines {
  #source;
  #narrow = matchMedia("(max-width: 760px)");

  /** `source` is the project's Markdown; it may be empty. */
  constructor(source) {
    this.#source = source;
    this.element = element("aside", { class: "guidelines", "aria-label": text.label.guidelines, hidden: true, tabindex: "0" });
    replaceChildren(this.element, element("h2", {}, text.label.guidelines), this.#render());
  }

  /** Opens or closes them: beside the image, or over it where there is no room. */
  toggle() {
    if (this.#narrow.matches)
      openDialog({ title: text.label.guidelines, body: element("div", { class: "guidelines-text" }, this.#render()) });
    else this.element.hidden = !this.element.hidden;
  }

  #render() {
    return this.#source ? renderMarkdown(this.#source) : element("p", { class: "hint" }, text.label.noGuidelines);
  }
}

/** Shows what each key does. */
export function openKeyHelp() {
  const rows = text.help.keys.map(([keys, does]) =>
    element(
      "tr",
      {},
      element(
        "td",
        {},
        keys.map((key) => element("kbd", {}, key)),
      ),
      element("td", {}, does),
    ),
  );
  const table = element("table", { class: "keys" }, element("tbody", {}, rows));
  openDialog({ title: text.help.title, body: [table, element("p", { class: "hint" }, text.help.saved)] });
}
