// What was just answered, over the lower edge of the image, with the way back. Owns how long it stays; what undo does is the page's.

import { element, replaceChildren } from "./dom.js";
import { text } from "./text.js";

const SHOWN_MS = 4000;

export class AnswerToast {
  #undo;
  #timer = null;

  /** `undo` is called by its button. */
  constructor(undo) {
    this.#undo = undo;
    this.element = element("div", { class: "answer-toast", role: "status", "aria-live": "polite" });
  }

  /** Shows an answer `{name, colour}`, which can be undone. */
  showAnswer({ name, colour }) {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true", vars: { "--class-colour": colour ?? "var(--muted)" } });
    const undo = element(
      "button",
      { type: "button", class: "toast-action", on: { click: (event) => this.#press(event) } },
      text.label.undo,
      element("kbd", { "aria-hidden": "true" }, "U"),
    );
    this.#show([swatch, element("span", { class: "last-text" }, name), undo]);
  }

  /** Shows a message. */
  showMessage(message) {
    this.#show([element("span", { class: "last-text" }, message)]);
  }

  #press(event) {
    // The focus must not stay on a button that goes away: the next key is a class.
    event.currentTarget.blur();
    this.#undo();
  }

  #show(content) {
    clearTimeout(this.#timer);
    replaceChildren(this.element, content);
    this.element.classList.remove("gone");
    this.#timer = setTimeout(() => this.#hide(), SHOWN_MS);
  }

  #hide() {
    if (this.element.matches(":hover, :focus-within")) this.#timer = setTimeout(() => this.#hide(), SHOWN_MS);
    else {
      this.element.classList.add("gone");
      replaceChildren(this.element);
    }
  }
}
