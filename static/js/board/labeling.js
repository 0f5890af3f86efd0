// The part of a project's page that shows who labels, how well, and which labels are suspected. Owns when both reports are read: they are counted
// from all labels, so only while somebody looks, and seldom.

import { get } from "../api.js";
import { element } from "../dom.js";
import { toastProblem } from "../shell.js";
import { text } from "../text.js";
import { Agreement } from "./agreement.js";
import { LabelerTable } from "./labelers.js";
import { panel } from "./panel.js";
import { Suspects } from "./suspects.js";

/** Read again after so long, when something has happened, and when nothing is known to have: an audit's end has no event. */
const AGAIN_MS = 10_000;
const IDLE_MS = 30_000;
const SUSPECT_COUNT = 1000;

export class Labeling {
  #path;
  #labelers;
  #agreement;
  #suspects;
  #isVisible = false;
  #readAt = -Infinity;

  /** `classes` come from `dealKeys`. */
  constructor(path, classes) {
    this.#path = path;
    const changed = () => this.#read();
    this.#labelers = new LabelerTable(path, changed);
    this.#agreement = new Agreement(classes);
    this.#suspects = new Suspects(classes, changed);
    this.element = element(
      "div",
      { class: "board-grid" },
      panel(text.labelers.title, this.#labelers.element, "full"),
      panel(text.agreement.title, this.#agreement.element, "full"),
      panel(text.suspects.title, this.#suspects.element, "full"),
    );
  }

  /** Nothing is read while nobody looks. */
  setVisible(isVisible) {
    this.#isVisible = isVisible;
    this.refresh();
  }

  /** Reads again, unless that was done moments ago; `isIdle` when nothing is known to have changed. */
  async refresh({ isIdle = false } = {}) {
    if (!this.#isVisible || performance.now() - this.#readAt < (isIdle ? IDLE_MS : AGAIN_MS)) return;
    await this.#read();
  }

  async #read() {
    this.#readAt = performance.now();
    try {
      const [work, agreement] = await Promise.all([
        get(`${this.#path}/labelers`),
        get(`${this.#path}/agreement?limit=${SUSPECT_COUNT}`),
      ]);
      this.#labelers.show(work.items, agreement.labelers);
      this.#agreement.show(agreement);
      this.#suspects.show(agreement);
    } catch (error) {
      toastProblem(error);
    }
  }
}
