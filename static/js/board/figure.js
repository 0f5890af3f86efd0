// A drawing of the server's, put into the page. Owns how it is fetched (for the width at hand), that it is kept until a newer one is there,
// and the words beside the pointer: the server gives each mark a title, which is shown at once here instead of after a second.

import { figure } from "../api.js";
import { element, replaceChildren } from "../dom.js";

/** A drawing in less room than this is asked for with larger words. */
const NARROW_BELOW = 520;

export class Figure {
  #empty;
  #path = null;
  #isNarrow = null;
  /** The source of what is shown; `undefined` before anything is. */
  #drawn = undefined;
  #tip = element("div", { class: "tip", hidden: true, role: "presentation" });
  #place = element("div", { class: "figure-place" });

  /** `empty` stands where there is nothing to draw. */
  constructor(empty) {
    this.#empty = empty;
    this.element = element("div", { class: "figure" }, this.#place, this.#tip);
    this.#place.addEventListener("pointermove", (event) => this.#point(event));
    this.#place.addEventListener("pointerleave", () => (this.#tip.hidden = true));
    // A drawing that can't be had now stays as it is.
    new ResizeObserver(() => this.#measure() && this.#path && this.show(this.#path).catch(() => {})).observe(this.element);
  }

  /** Shows the drawing at `path` (below /api/v1, without its size); `null` shows that there is none. */
  async show(path) {
    this.#path = path;
    if (path === null) return this.#showEmpty();
    this.#measure();
    // Before it has been laid out nobody knows how much room it has; the observer asks then.
    if (this.#isNarrow === null) return;
    const joint = path.includes("?") ? "&" : "?";
    const source = await figure(`${path}${joint}size=${this.#isNarrow ? "narrow" : "wide"}`);
    if (path !== this.#path || source === this.#drawn) return;
    this.#drawn = source;
    if (source === null) return this.#showEmpty();
    const drawing = document.adoptNode(new DOMParser().parseFromString(source, "image/svg+xml").documentElement);
    drawing.removeAttribute("width");
    drawing.removeAttribute("height");
    for (const mark of drawing.querySelectorAll(".mark")) {
      mark.dataset.words = mark.textContent;
      mark.replaceChildren();
    }
    replaceChildren(this.#place, drawing);
  }

  /** Looks how much room there is, and says whether that changed; what is hidden has none. */
  #measure() {
    const width = this.element.clientWidth;
    if (width === 0 || this.#isNarrow === width < NARROW_BELOW) return false;
    this.#isNarrow = width < NARROW_BELOW;
    return true;
  }

  #showEmpty() {
    this.#drawn = null;
    replaceChildren(this.#place, element("p", { class: "nothing" }, this.#empty));
  }

  #point(event) {
    const mark = event.target.closest?.(".mark");
    this.#tip.hidden = !mark;
    if (!mark) return;
    this.#tip.textContent = mark.dataset.words;
    const frame = this.element.getBoundingClientRect();
    const across = Math.min(Math.max(event.clientX - frame.left, 90), frame.width - 90);
    this.#tip.style.translate = `${across}px ${event.clientY - frame.top - 14}px`;
  }
}
