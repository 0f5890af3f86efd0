// The operator's page of one project. Owns its layout and its refresh: events say that something changed, and the parts that it touches are
// read again; a running job is asked for its progress by the second.

import { get, page, pages, projectPath } from "./api.js";
import { Balance } from "./board/balance.js";
import { Controls } from "./board/controls.js";
import { Feed } from "./board/feed.js";
import { Gallery } from "./board/gallery.js";
import { Imports } from "./board/imports.js";
import { Models } from "./board/models.js";
import { Rounds } from "./board/rounds.js";
import { openSettings } from "./board/settings.js";
import { StateMachine } from "./board/state_machine.js";
import { Summary } from "./board/summary.js";
import { curveChart } from "./charts.js";
import { element, icon, replaceChildren } from "./dom.js";
import { dealKeys } from "./hotkeys.js";
import { readCurve, readProject, readRound } from "./shapes.js";
import { isOperator, layOut, openPage, projectFromAddress } from "./shell.js";
import { stateBadge } from "./state_badge.js";
import { text } from "./text.js";

const UNSTARTED = ["empty", "importing", "ready"];
const JOB_MS = 1000;
const QUIET_MS = 8000;
/** Bursts of events (labels) are answered by one refresh. */
const GATHER_MS = 700;

class ProjectPage {
  #name;
  #me;
  #project;
  #parts;
  #gathered = new Set();
  #gathering = null;
  #poll = null;

  constructor(project, me) {
    this.#name = project.name;
    this.#me = me;
    this.#project = project;
    const operator = isOperator(me);
    const classes = dealKeys(project.classes);
    const path = projectPath(project.name);
    this.#parts = {
      machine: new StateMachine(),
      summary: new Summary(),
      controls: new Controls(path, operator, () => this.#refresh(["project", "rounds"])),
      rounds: new Rounds((round) => this.#choose(round)),
      gallery: operator ? new Gallery(path, classes) : null,
      balance: new Balance(classes),
      imports: operator ? new Imports(path, () => this.#refresh(["project"])) : null,
      models: new Models(path),
      feed: new Feed(path, (kind) => this.#hear(kind)),
    };
    this.#build(operator);
  }

  async open() {
    this.#showProject();
    await this.#refresh(["rounds", "curve", "models"]);
    this.#parts.feed.open();
    this.#schedule();
    document.addEventListener("visibilitychange", () => document.hidden || this.#refresh(["project", "rounds", "curve", "models"]));
  }

  #build(operator) {
    const parts = this.#parts;
    const name = encodeURIComponent(this.#name);
    this.badge = element("span", { class: "badge-slot", role: "status" });
    this.curve = element("div", {});
    this.label = element("a", { class: "button", href: `/label/${name}` }, text.projects.label);
    const main = document.querySelector("main");
    const edit =
      operator &&
      element(
        "button",
        { type: "button", class: "button", on: { click: () => openSettings(this.#project, () => this.#refresh(["project"])) } },
        icon("edit"),
        text.board.settings,
      );
    const head = element(
      "div",
      { class: "page-head" },
      element("div", { class: "title-row" }, element("h1", {}, this.#name), this.badge),
      element("div", { class: "row" }, parts.controls.element, edit, this.label),
    );
    main.className = "page board";
    layOut({ me: this.#me, title: this.#name, main });
    replaceChildren(
      main,
      head,
      parts.machine.element,
      parts.summary.element,
      element(
        "div",
        { class: "board-grid" },
        panel(text.curve.title, this.curve, "wide later"),
        panel(text.feed.title, parts.feed.element),
        panel(text.rounds.title, parts.rounds.element, "wide later"),
        panel(text.balance.title, parts.balance.element, "later"),
        parts.gallery && panel(text.gallery.title, parts.gallery.element, "full later"),
        parts.imports && panel(text.imports.title, parts.imports.element, "wide", "import"),
        panel(text.models.title, parts.models.element, "later"),
      ),
    );
  }

  #hear(kind) {
    const touched = TOUCHES.find(([start]) => kind.startsWith(start))?.[1] ?? ["project"];
    for (const part of touched) this.#gathered.add(part);
    this.#gathering ??= setTimeout(() => {
      this.#gathering = null;
      const parts = [...this.#gathered];
      this.#gathered.clear();
      this.#refresh(parts);
    }, GATHER_MS);
  }

  /** Reads parts of the page again; a part that fails keeps what it shows until the next time. */
  async #refresh(names) {
    const readers = {
      project: async () => {
        this.#project = readProject(await get(projectPath(this.#name)));
        this.#showProject();
      },
      rounds: async () => this.#showRounds((await pages(projectPath(this.#name, "/rounds"))).map(readRound)),
      curve: async () => replaceChildren(this.curve, curveChart(readCurve(await get(projectPath(this.#name, "/curve"))))),
      models: async () => this.#parts.models.show((await page(projectPath(this.#name, "/models"))).items),
    };
    await Promise.allSettled(names.map((name) => readers[name]()));
  }

  #schedule() {
    clearTimeout(this.#poll);
    const isBusy = this.#project.progress !== null || this.#project.state === "importing";
    this.#poll = setTimeout(
      async () => {
        if (!document.hidden) await this.#refresh(["project"]);
        this.#schedule();
      },
      isBusy ? JOB_MS : QUIET_MS,
    );
  }

  #showProject() {
    const project = this.#project;
    if (this.badge.textContent !== stateBadge(project).textContent) replaceChildren(this.badge, stateBadge(project));
    this.#parts.machine.show(project);
    this.#parts.summary.show(project);
    this.#parts.controls.show(project);
    this.#parts.imports?.show(project);
    this.label.classList.toggle("primary", project.state === "labeling" && !project.isPaused);
    // Before the start there is one thing to do: bring images in.
    document.querySelector("main").classList.toggle("unstarted", UNSTARTED.includes(project.state));
  }

  #showRounds(rounds) {
    rounds.sort((a, b) => b.number - a.number);
    this.#parts.rounds.show(rounds);
    this.#parts.balance.show(rounds);
    this.#parts.gallery?.show(rounds);
  }

  #choose(round) {
    this.#parts.gallery?.choose(round.number);
    this.#parts.gallery?.element.scrollIntoView({ block: "start" });
  }
}

/** Which parts an event touches, by the start of its kind. */
const TOUCHES = [
  ["label.", ["project", "rounds"]],
  ["task.", ["project", "rounds"]],
  ["round.", ["project", "rounds"]],
  ["model.", ["project", "rounds", "curve", "models"]],
  ["import.", ["project"]],
];

function panel(title, body, size = "", id = null) {
  return element("section", { class: `panel ${size}`, id, "aria-label": title }, element("h2", {}, title), body);
}

openPage(async () => {
  const [me, project] = await Promise.all([get("/me"), get(projectPath(projectFromAddress()))]);
  await new ProjectPage(readProject(project), me).open();
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
});
