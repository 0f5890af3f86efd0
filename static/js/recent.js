// The latest answers as small pictures, each of which can be changed. Owns the strip; correcting one asks class_choice.js.

import { askClass } from "./class_choice.js";
import { element, replaceChildren } from "./dom.js";
import { toast, toastProblem } from "./shell.js";
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
    askClass({
      title: text.label.correct,
      image: copyOf(entry.task.image),
      classes: this.#classes,
      current: entry.name,
      choose: (to) => this.#correct(entry, to),
    });
  }

  async #correct(entry, to) {
    if (to.name === entry.name) return;
    try {
      await this.#answers.correct(entry, to);
      toast(text.label.corrected(to.name));
    } catch (error) {
      toastProblem(error);
    }
  }
}

/** The same picture once more, without the place and size that the stage gave it. */
function copyOf(image) {
  return element("img", { src: image.src, alt: "", decoding: "async" });
}
