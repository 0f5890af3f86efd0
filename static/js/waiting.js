// What the labeler sees when there is nothing to label. Owns the card that says why, what happens meanwhile, and when the page looks again.

import { steadyNow } from "./clock.js";
import { element, icon, replaceChildren } from "./dom.js";
import { count, duration } from "./format.js";
import { problemText } from "./shell.js";
import { text } from "./text.js";

/** A page that looks again this soon needs neither a countdown nor a button. */
const SOON_SECONDS = 5;

const ICONS = {
  training: "target",
  scoring: "target",
  paused: "pause",
  finished: "check",
  not_started: "wait",
  batch_leased_out: "wait",
  offline: "cloud",
  refused: "alert",
  loading: "wait",
};

export class WaitingCard {
  #title = element("h2", { role: "status" });
  #body = element("p", {});
  #progress = element("div", { class: "wait-progress" });
  #countdown = element("p", { class: "hint" });
  #symbol = element("div", { class: "wait-icon" });
  #retryAt = null;
  #isSoon = true;

  constructor(lookNow) {
    this.button = element("button", { type: "button", class: "button", on: { click: lookNow } }, text.wait.lookNow);
    this.element = element(
      "div",
      { class: "wait-card" },
      this.#symbol,
      this.#title,
      this.#body,
      this.#progress,
      this.#countdown,
      this.button,
    );
    setInterval(() => this.#tick(), 500);
  }

  /** Shows why one waits: `wait` is the desk's, `progress` the project's running job or `null`. */
  show(wait, progress) {
    const words = text.wait[wait.reason] ?? text.wait.other;
    this.element.className = `wait-card ${wait.reason}`;
    if (this.#title.textContent !== words.title) {
      this.#title.textContent = words.title;
      replaceChildren(this.#symbol, icon(ICONS[wait.reason] ?? "wait"));
    }
    this.#body.textContent = wait.problem ? problemText(wait.problem) : words.body;
    replaceChildren(this.#progress, progress && wait.reason !== "offline" ? jobBar(progress) : null);
    this.#retryAt = wait.retryAt;
    this.#isSoon = wait.reason === "loading" || (wait.retryAt !== null && wait.retryAt - steadyNow() <= SOON_SECONDS * 1000);
    this.button.hidden = this.#isSoon;
    this.#tick();
  }

  #tick() {
    const left = this.#retryAt === null ? null : Math.ceil((this.#retryAt - steadyNow()) / 1000);
    this.#countdown.textContent =
      left === null || this.#isSoon || left > 3600 ? "" : left > 0 ? text.wait.retryIn(duration(left)) : text.wait.looking;
  }
}

/** A bar for a job that runs: `{job, done, total, eta_seconds}`. */
export function jobBar(progress) {
  const name = text.jobs[progress.job] ?? progress.job;
  const known = progress.total > 0;
  const fraction = known ? Math.min(1, progress.done / progress.total) : 0;
  const facts = [
    known ? text.progress.of(count(progress.done), count(progress.total)) : progress.done > 0 && count(progress.done),
    Number.isFinite(progress.eta_seconds) ? text.progress.left(duration(progress.eta_seconds)) : null,
  ];
  return element(
    "div",
    { class: "job" },
    element("div", { class: "job-head" }, element("span", {}, name), element("span", { class: "hint" }, facts.filter(Boolean).join(" · "))),
    progressBar(fraction, name, known),
  );
}

/** A bar that is `fraction` (0 to 1) full; without `known` it only shows that something moves. */
export function progressBar(fraction, label, known = true) {
  return element(
    "div",
    {
      class: known ? "progress" : "progress moving",
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": known ? Math.round(fraction * 100) : null,
    },
    element("div", { class: "progress-fill", vars: { "--fraction": String(fraction) } }),
  );
}
