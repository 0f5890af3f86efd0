// What the curve says about the rounds to come: whether asking by the strategy helps, what further batches will bring, and when the project stops.

import { element, replaceChildren } from "../dom.js";
import { amount, count, percent } from "../format.js";
import { table } from "../table.js";
import { text } from "../text.js";

/** Per cent with the sign of a difference. */
const signed = (value) => `${value < 0 ? "−" : "+"}${(Math.abs(value) * 100).toFixed(1)}`;

export class Outlook {
  #curve = null;
  #project = null;

  constructor() {
    this.element = element("div", { class: "outlook" });
  }

  /** Takes the service's `curve` (`{predictions, active_sampling, …}`). */
  showCurve(curve) {
    this.#curve = curve;
    this.#draw();
  }

  /** Takes `project`, for its rules and its end. */
  showProject(project) {
    const seen = this.#project;
    this.#project = project;
    const fresh = [project.finishReason, project.isFinishing, project.budget, project.spent, JSON.stringify(project.stopping), project.state];
    const before = seen && [seen.finishReason, seen.isFinishing, seen.budget, seen.spent, JSON.stringify(seen.stopping), seen.state];
    if (String(fresh) !== String(before)) this.#draw();
  }

  #draw() {
    if (!this.#project) return;
    const predictions = this.#curve?.predictions ?? [];
    replaceChildren(this.element, verdict(this.#curve?.active_sampling ?? null), forecast(predictions), ending(this.#project));
  }
}

function part(title, ...content) {
  return element("div", { class: "outlook-part" }, element("h3", {}, title), content);
}

function verdict(found) {
  const words = text.outlook;
  if (found === null) return part(words.sampling, element("p", { class: "hint" }, words.noVerdict));
  const numbers = words.compared(
    count(found.label_count),
    percent(found.queried_accuracy),
    percent(found.random_accuracy),
    signed(found.difference_interval.low),
    signed(found.difference_interval.high),
  );
  const place = found.on_test_split ? words.onTest(count(found.evaluated_count)) : words.onRandom(count(found.evaluated_count));
  return part(
    words.sampling,
    element("p", {}, element("span", { class: `badge ${found.verdict}` }, words.verdicts[found.verdict])),
    element("p", { class: "hint" }, `${numbers} ${place}`),
  );
}

function forecast(predictions) {
  const words = text.outlook;
  if (predictions.length === 0) return part(words.forecast, element("p", { class: "hint" }, words.noForecast));
  const rows = predictions.map((step) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", class: "number" }, count(step.label_count)),
      element("td", { class: "number" }, amount(step.cost)),
      element(
        "td",
        { class: "number" },
        percent(step.accuracy),
        element("span", { class: "hint cell-note" }, words.between(percent(step.interval.low), percent(step.interval.high))),
      ),
    ),
  );
  return part(words.forecast, table(words.columns, rows, "tight"));
}

/** Why the project ended or is about to; before that, what will end it. */
function ending(project) {
  const words = text.outlook;
  const isOver = project.state === "finished";
  if (project.finishReason !== null) {
    const reason = text.finishReasons[project.finishReason] ?? project.finishReason;
    return part(isOver ? words.ended : words.ending, element("p", {}, reason));
  }
  const { target_accuracy: target, confidence, plateau_rounds: rounds, plateau_gain: gain } = project.stopping;
  const rules = [
    words.atBudget(amount(Math.max(0, project.budget - project.spent))),
    target !== null && words.atTarget(percent(target), percent(confidence, 0)),
    rounds !== null && words.atPlateau(count(rounds), (gain * 100).toFixed(1)),
  ].filter(Boolean);
  return part(
    words.stops,
    element(
      "ul",
      { class: "plain" },
      rules.map((rule) => element("li", {}, rule)),
    ),
  );
}
