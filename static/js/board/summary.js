// The figures at the head of a project's page, and the job that runs. Owns the rate, which it measures from one look to the next.

import { element, icon, replaceChildren } from "../dom.js";
import { amount, count, duration, percent } from "../format.js";
import { text } from "../text.js";
import { jobBar, progressBar } from "../waiting.js";
import { figure } from "./panel.js";

const RATE_WINDOW_MS = 20_000;

export class Summary {
  #seen = [];
  #job = element("div", { class: "running" });
  #figures = element("dl", { class: "figures" });

  constructor() {
    this.element = element("section", { class: "summary", "aria-label": text.board.summary }, this.#job, this.#figures);
  }

  /** Shows the figures of `project`. */
  show(project) {
    if (!project.progress) this.#seen = [];
    replaceChildren(
      this.#job,
      this.#failure(project),
      project.progress && this.#running(project.progress),
      (!project.progress || project.state === "labeling") && this.#batch(project),
    );
    replaceChildren(
      this.#figures,
      figure(
        text.board.accuracy,
        percent(project.testAccuracy),
        project.modelVersion === null ? text.board.noModel : text.board.version(project.modelVersion),
      ),
      figure(text.board.labelled, count(project.labeledCount), text.board.ofImages(count(project.poolCount))),
      figure(text.board.spent, amount(project.spent), text.board.ofBudget(amount(project.budget))),
      figure(text.board.round, project.round ? count(project.round.number) : "–", text.board.batchSize(count(project.batchSize))),
    );
  }

  #failure(project) {
    if (project.failure === null) return null;
    return element(
      "div",
      { class: "alert", role: "alert" },
      icon("alert"),
      element("div", {}, element("strong", {}, text.board.failed), element("p", {}, project.failure)),
    );
  }

  #running(progress) {
    const bar = jobBar(progress);
    const rate = this.#rate(progress);
    if (rate !== null) bar.firstChild.lastChild.append(` · ${text.progress.rate(count(rate))}`);
    return bar;
  }

  #batch(project) {
    const round = project.round;
    if (project.failure !== null) return null;
    if (project.state === "finished" && project.finishReason !== null) {
      const reason = text.finishReasons[project.finishReason] ?? project.finishReason;
      return element("p", {}, element("strong", {}, reason), " ", element("span", { class: "hint" }, text.board.idle.finished));
    }
    if (project.state !== "labeling" || !round?.taskCount) return element("p", { class: "hint" }, text.board.idle[project.state] ?? "");
    const words = text.label.batch(round.number, count(round.answeredCount), count(round.taskCount));
    return element(
      "div",
      { class: "job" },
      element(
        "div",
        { class: "job-head" },
        element("span", {}, words),
        project.isFinishing && element("span", { class: "hint" }, text.board.finishing),
      ),
      progressBar(round.answeredCount / round.taskCount, words),
    );
  }

  /** Steps a second over the last twenty, or `null` at first. */
  #rate(progress) {
    const now = Date.now();
    const sameJob = (seen) => seen.job === progress.job && seen.total === progress.total && seen.done <= progress.done;
    this.#seen = this.#seen.filter((seen) => sameJob(seen) && now - seen.at <= RATE_WINDOW_MS);
    this.#seen.push({ ...progress, at: now });
    const first = this.#seen[0];
    const seconds = (now - first.at) / 1000;
    return seconds >= 2 && progress.done > first.done ? (progress.done - first.done) / seconds : null;
  }
}

/** How long something took or takes, for tables. */
export function span(from, to) {
  const seconds = (new Date(to ?? Date.now()).getTime() - new Date(from).getTime()) / 1000;
  return Number.isFinite(seconds) ? duration(seconds) : "–";
}
