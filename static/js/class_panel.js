// The classes as keys and buttons. Owns their look on the labeler's page: colour, hotkey, the model's guess, the filter for long lists.

import { element, replaceChildren } from "./dom.js";
import { percent } from "./format.js";
import { text } from "./text.js";

/** Longer lists get a filter. */
const FILTER_FROM = 20;
const FLASH_MS = 260;

export class ClassPanel {
  #classes;
  #buttons = new Map();
  #filter = null;
  #list;

  /** `classes` come from `dealKeys`; `choose` gets the class that was pressed. */
  constructor(classes, choose) {
    this.#classes = classes;
    this.#list = element("div", { class: "class-list", role: "group", "aria-label": text.label.classes });
    for (const entry of classes) this.#buttons.set(entry.name, classButton(entry, choose));
    if (classes.length > FILTER_FROM) this.#filter = this.#makeFilter(choose);
    replaceChildren(this.#list, [...this.#buttons.values()]);
    this.element = element("section", { class: "classes", "aria-label": text.label.classes }, this.#filter, this.#list);
  }

  /** The class that `key` names, or `undefined`. */
  find(key) {
    return this.#classes.find((entry) => entry.hotkey === key.toLowerCase());
  }

  /** The class called `name`, or `undefined`. */
  named(name) {
    return this.#classes.find((entry) => entry.name === name);
  }

  /** Shows the model's guesses `[{class, probability}]`, best first; none hides them. */
  suggest(suggestions) {
    for (const button of this.#buttons.values()) {
      button.classList.remove("guessed");
      button.lastChild.textContent = "";
    }
    const best = suggestions?.[0];
    const button = best && this.#buttons.get(best.class);
    if (!button) return;
    button.classList.add("guessed");
    button.lastChild.textContent = text.label.guess(percent(best.probability, 0));
  }

  /** Lights up the class that was chosen. */
  flash(name) {
    const button = this.#buttons.get(name);
    if (!button) return;
    button.classList.add("picked");
    setTimeout(() => button.classList.remove("picked"), FLASH_MS);
  }

  /** Buttons answer only while an image is shown. */
  setEnabled(isEnabled) {
    this.element.classList.toggle("resting", !isEnabled);
    for (const button of this.#buttons.values()) button.setAttribute("aria-disabled", String(!isEnabled));
  }

  /** Puts the cursor into the filter, if there is one. */
  focusFilter() {
    this.#filter?.focus();
  }

  #makeFilter(choose) {
    const show = () => {
      const part = filter.value.trim().toLowerCase();
      for (const [name, button] of this.#buttons) button.hidden = !name.toLowerCase().includes(part);
    };
    const pick = (event) => {
      if (event.key === "Escape") filter.blur();
      if (event.key !== "Enter") return;
      const first = this.#classes.find((entry) => !this.#buttons.get(entry.name).hidden);
      filter.value = "";
      show();
      filter.blur();
      if (first) choose(first);
    };
    const filter = element("input", {
      class: "class-filter",
      type: "search",
      placeholder: text.label.filter,
      "aria-label": text.label.filter,
      on: { input: show, keydown: pick },
    });
    return filter;
  }
}

/** A pointer leaves the focus on the button, where Enter would give the same class once more. */
function press(event, choose) {
  if (event.detail > 0) event.currentTarget.blur();
  choose();
}

function classButton(entry, choose) {
  return element(
    "button",
    {
      type: "button",
      class: "class-button",
      vars: { "--class-colour": entry.colour },
      "aria-keyshortcuts": entry.hotkey,
      on: { click: (event) => press(event, () => choose(entry)) },
    },
    element("span", { class: "swatch", "aria-hidden": "true" }),
    element("kbd", { "aria-hidden": "true" }, entry.hotkey?.toUpperCase() ?? "·"),
    element("span", { class: "class-name" }, entry.name),
    element("span", { class: "guess" }),
  );
}
