// What a labeler looks up while working: the project's guidelines beside the image, and the keys. Owns both, and how a phone shows them.

import { element, icon, replaceChildren } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { openDialog } from "./shell.js";
import { text } from "./text.js";

const STORE = "gleaner.guidelines";

export class Guidelines {
  #source;
  #narrow = matchMedia("(max-width: 760px)");
  #roomy = matchMedia("(min-width: 1180px)");

  /** `source` is the project's Markdown; it may be empty. */
  constructor(source) {
    this.#source = source;
    // Where there is room they stand beside the image until somebody closes them.
    const isOpen = source !== "" && this.#roomy.matches && !wasClosed();
    this.element = element("aside", { class: "guidelines", "aria-label": text.label.guidelines, hidden: !isOpen, tabindex: "0" });
    const close = element(
      "button",
      { type: "button", class: "icon-button", "aria-label": text.label.close, on: { click: () => this.toggle() } },
      icon("close"),
    );
    replaceChildren(this.element, element("div", { class: "guidelines-head" }, element("h2", {}, text.label.guidelines), close), this.#render());
  }

  /** Opens or closes them: beside the image, or over it where there is no room. */
  toggle() {
    if (this.#narrow.matches)
      openDialog({ title: text.label.guidelines, body: element("div", { class: "guidelines-text" }, this.#render()) });
    else {
      this.element.hidden = !this.element.hidden;
      noteClosed(this.element.hidden);
    }
  }

  #render() {
    return this.#source ? renderMarkdown(this.#source) : element("p", { class: "hint" }, text.label.noGuidelines);
  }
}

function wasClosed() {
  try {
    return localStorage.getItem(STORE) === "closed";
  } catch {
    return false;
  }
}

function noteClosed(isClosed) {
  try {
    localStorage.setItem(STORE, isClosed ? "closed" : "open");
  } catch {
    // Without storage the choice lasts as long as the page.
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
