// The latest answers as small pictures, each of which can be changed. Owns the strip and the dialog that corrects one.

import { element, replaceChildren } from "./dom.js";
import { openDialog, toast, toastProblem } from "./shell.js";
import { text } from "./text.js";

const SHOWN_COUNT = 6;

export class Recent {
  #answers;
  #classes;

  /** `classes` come from `dealKeys`. */
  constructor(answers, classes) {
    this.#answers = answers;
    this.#classes = classes;
    this.element = element("div", { class: "recent", role: "group", "aria-label": text.label.recent });
  }

  /** Draws the strip anew. */
  show() {
    replaceChildren(
      this.element,
      this.#answers.recent(SHOWN_COUNT).map((entry) => this.#picture(entry)),
    );
  }

  #picture(entry) {
    const words = text.label.recentAnswer(entry.name);
    return element(
      "button",
      {
        type: "button",
        title: words,
        "aria-label": words,
        vars: { "--class-colour": entry.colour },
        on: { click: () => this.#ask(entry) },
      },
      copyOf(entry.task.image),
    );
  }

  #ask(entry) {
    const choose = async (to) => {
      dialog.close();
      if (to.name === entry.name) return;
      try {
        await this.#answers.correct(entry, to);
        toast(text.label.corrected(to.name));
      } catch (error) {
        toastProblem(error);
      }
    };
    const buttons = this.#classes.map((to) =>
      element(
        "button",
        {
          type: "button",
          class: to.name === entry.name ? "class-button guessed" : "class-button",
          autofocus: to.name === entry.name,
          "aria-pressed": String(to.name === entry.name),
          vars: { "--class-colour": to.colour },
          on: { click: () => choose(to) },
        },
        element("kbd", { "aria-hidden": "true" }, to.hotkey?.toUpperCase() ?? "·"),
        element("span", { class: "class-name" }, to.name),
      ),
    );
    const body = element("div", { class: "correction" }, copyOf(entry.task.image), element("div", { class: "class-list" }, buttons));
    const dialog = openDialog({ title: text.label.correct, body, wide: true });
    dialog.addEventListener("keydown", (event) => {
      const to = this.#classes.find((candidate) => candidate.hotkey === event.key.toLowerCase());
      if (!to) return;
      event.preventDefault();
      choose(to);
    });
  }
}

/** The same picture once more, without the place and size that the stage gave it. */
function copyOf(image) {
  return element("img", { src: image.src, alt: "", decoding: "async" });
}
