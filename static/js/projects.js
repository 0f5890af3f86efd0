// The list of projects, the first page. Owns the cards, their refresh, and what an empty server tells a newcomer.

import { get, pages } from "./api.js";
import { element, icon, replaceChildren } from "./dom.js";
import { amount, count, percent } from "./format.js";
import { openNewProject } from "./new_project.js";
import { readProject } from "./shapes.js";
import { isOperator, layOut, openPage } from "./shell.js";
import { stateBadge } from "./state_badge.js";
import { text } from "./text.js";
import { jobBar, progressBar } from "./waiting.js";

const FOLLOW_MS = 4000;

const main = document.querySelector("main");
const list = element("div", { class: "cards" });

async function open() {
  const me = await get("/me");
  layOut({ me, title: text.projects.title, main });
  const operator = isOperator(me);
  const make =
    operator &&
    element("button", { type: "button", class: "button primary", on: { click: openNewProject } }, icon("plus"), text.projects.make);
  const access = operator && element("a", { class: "button", href: "/access" }, icon("people"), text.access.open);
  main.className = "page";
  const head = element(
    "div",
    { class: "page-head" },
    element("h1", {}, text.projects.title),
    element("div", { class: "row" }, access, make),
  );
  replaceChildren(main, head, list);
  await refresh(operator);
  // A list that can't be read now stays as it is until it can.
  setInterval(() => document.hidden || refresh(operator).catch(() => {}), FOLLOW_MS);
}

let shown = "";

async function refresh(operator) {
  const answers = await pages("/projects");
  // An unchanged list stays, so that the focus and a reader's place aren't lost every few seconds.
  const state = JSON.stringify(answers);
  if (state === shown) return;
  shown = state;
  const projects = answers.map(readProject);
  const focused = document.activeElement?.getAttribute?.("href");
  replaceChildren(list, projects.length > 0 ? projects.map((project) => card(project, operator)) : welcome(operator));
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

function card(project, operator) {
  const name = encodeURIComponent(project.name);
  const board = `/projects/${name}`;
  const canLabel = ["labeling", "training", "scoring"].includes(project.state) && !project.isPaused && project.failure === null;
  const title = operator ? element("a", { href: board }, project.name) : project.name;
  return element(
    "article",
    { class: "card project-card" },
    element("div", { class: "card-head" }, element("h2", {}, title), stateBadge(project)),
    project.progress ? jobBar(project.progress) : budgetBar(project),
    element(
      "dl",
      { class: "facts" },
      datum(text.projects.images, count(project.poolCount)),
      datum(text.projects.labelled, count(project.labeledCount)),
      datum(text.projects.spent, text.progress.of(amount(project.spent), amount(project.budget))),
      datum(text.projects.accuracy, percent(project.testAccuracy)),
    ),
    element(
      "div",
      { class: "row" },
      element("a", { class: canLabel ? "button primary" : "button", href: `/label/${name}` }, text.projects.label),
      operator && element("a", { class: "button", href: board }, text.projects.open),
    ),
  );
}

function budgetBar(project) {
  const words = text.projects.budgetUsed(amount(project.spent), amount(project.budget));
  const fraction = project.budget > 0 ? Math.min(1, project.spent / project.budget) : 0;
  return element("div", { class: "job" }, element("div", { class: "job-head" }, element("span", {}, words)), progressBar(fraction, words));
}

function datum(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value));
}

function welcome(operator) {
  if (!operator)
    return element(
      "div",
      { class: "notice" },
      element("h2", {}, text.projects.noneForLabeler.title),
      element("p", {}, text.projects.noneForLabeler.body),
    );
  return element(
    "div",
    { class: "notice welcome" },
    element("h2", {}, text.projects.welcome.title),
    element("p", {}, text.projects.welcome.body),
    element(
      "ol",
      { class: "steps" },
      text.projects.welcome.steps.map((step) => element("li", {}, step)),
    ),
    element("button", { type: "button", class: "button primary", on: { click: openNewProject } }, icon("plus"), text.projects.make),
  );
}

openPage(open);
