// The operator's page of one project. Owns its parts and its refresh: events say that something changed, and what they touch is read again; a
// running job is asked for its progress by the second.

import { get, page, pages, projectPath } from "./api.js";
import { Batch } from "./board/batch.js";
import { Confusion } from "./board/confusion.js";
import { Controls } from "./board/controls.js";
import { Feed } from "./board/feed.js";
import { Imports } from "./board/imports.js";
import { Items } from "./board/items.js";
import { Labeling } from "./board/labeling.js";
import { LearningCurve } from "./board/learning_curve.js";
import { Models } from "./board/models.js";
import { NextStep } from "./board/next_step.js";
import { Outlook } from "./board/outlook.js";
import { panel } from "./board/panel.js";
import { Rounds } from "./board/rounds.js";
import { openSettings } from "./board/settings.js";
import { StateMachine } from "./board/state_machine.js";
import { Summary } from "./board/summary.js";
import { Tabs } from "./board/tabs.js";
import { element, icon, replaceChildren } from "./dom.js";
import { dealKeys } from "./hotkeys.js";
import { readProject, readRound } from "./shapes.js";
import { isOperator, layOut, openPage, projectFromAddress } from "./shell.js";
import { stateBadge } from "./state_badge.js";
import { text } from "./text.js";

const UNSTARTED = ["empty", "importing", "ready"];
const JOB_MS = 1000;
const QUIET_MS = 8000;
/** A large project takes longer to count; so many times as long as the answer took, the page leaves the service alone. */
const SHARE = 10;
/** Bursts of events (labels) are answered by one refresh. */
const GATHER_MS = 700;

class ProjectPage {
  #name;
  #me;
  #project;
  #parts;
  #tabs;
  #gathered = new Set();
  #gathering = null;
  #poll = null;
  #answerMs = 0;

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
      curve: new LearningCurve(path),
      rounds: new Rounds((round) => this.#choose(round)),
      outlook: new Outlook(),
      labeling: operator ? new Labeling(path, classes) : null,
      batch: operator ? new Batch(path, classes) : null,
      imports: operator ? new Imports(path, () => this.#refresh(["project"])) : null,
      items: operator ? new Items(path, classes) : null,
      models: new Models(path),
      confusion: new Confusion(path),
      nextStep: operator ? new NextStep((name) => this.#follow(name), `/label/${encodeURIComponent(project.name)}`) : null,
      feed: operator ? new Feed(path, (kind) => this.#hear(kind)) : null,
    };
    this.#build(operator);
  }

  async open() {
    this.#showProject();
    await this.#refresh(["rounds", "curve", "models"]);
    this.#turnTo(this.#tabs.current);
    this.#parts.feed?.open();
    this.#schedule();
    document.addEventListener("visibilitychange", () => document.hidden || this.#refresh(["project", "rounds", "curve", "models"]));
  }

  #build(operator) {
    const parts = this.#parts;
    const name = encodeURIComponent(this.#name);
    this.badge = element("span", { class: "badge-slot", role: "status" });
    this.label = element("a", { class: "button", href: `/label/${name}` }, text.projects.label);
    const main = document.querySelector("main");
    const tool = (symbol, words, run) =>
      element("button", { type: "button", class: "button", on: { click: run } }, icon(symbol), words);
    const head = element(
      "div",
      { class: "page-head" },
      element("div", { class: "title-row" }, element("h1", {}, this.#name), this.badge),
      element(
        "div",
        { class: "row" },
        parts.controls.element,
        operator && tool("edit", text.board.settings, () => openSettings(this.#project, () => this.#refresh(["project"]))),
        this.label,
      ),
    );
    this.#tabs = new Tabs(text.board.parts, this.#makeTabs(), (id) => this.#turnTo(id));
    main.className = "page board";
    layOut({ me: this.#me, title: this.#name, main });
    replaceChildren(main, head, parts.nextStep?.element, this.#tabs.list, this.#tabs.panels);
  }

  /** What stands in which part; a labeler sees where the project stands and no more. */
  #makeTabs() {
    const parts = this.#parts;
    const grid = (...panels) => element("div", { class: "board-grid" }, panels);
    const overview = [
      parts.machine.element,
      parts.summary.element,
      grid(
        panel(text.curve.title, parts.curve.element, "wide later", parts.curve.choice),
        panel(text.outlook.title, parts.outlook.element, "tall later"),
        parts.feed && panel(text.feed.title, parts.feed.element, "wide"),
        panel(text.rounds.title, parts.rounds.element, "wide later"),
        panel(text.models.title, parts.models.element, "later"),
      ),
    ];
    const words = text.board.partNames;
    return [
      { id: "overview", title: words.overview, content: overview },
      parts.batch && { id: "batch", title: words.batch, content: parts.batch.element },
      { id: "model", title: words.model, content: grid(panel(text.confusion.title, parts.confusion.element, "full")) },
      parts.labeling && { id: "labelers", title: words.labelers, content: parts.labeling.element },
      parts.imports && {
        id: "import",
        title: words.images,
        content: grid(
          panel(text.imports.title, parts.imports.element, "full"),
          panel(text.items.title, parts.items.element, "full later-images", parts.items.choice),
        ),
      },
    ].filter(Boolean);
  }

  #turnTo(id) {
    this.#parts.batch?.setVisible(id === "batch");
    this.#parts.labeling?.setVisible(id === "labelers");
    this.#parts.items?.setVisible(id === "import");
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
      curve: async () => this.#showCurve(),
      models: async () => this.#showModels((await page(projectPath(this.#name, "/models"))).items),
      labelers: async () => this.#parts.labeling?.refresh(),
    };
    // The project comes first, since others show what it says.
    if (names.includes("project")) await Promise.allSettled([readers.project()]);
    await Promise.allSettled(names.filter((name) => name !== "project").map((name) => readers[name]()));
  }

  #schedule() {
    clearTimeout(this.#poll);
    const isBusy = this.#project.progress !== null || this.#project.state === "importing";
    const wait = Math.max(isBusy ? JOB_MS : QUIET_MS, SHARE * this.#answerMs);
    this.#poll = setTimeout(async () => {
      if (!document.hidden) {
        const asked = performance.now();
        // Whoever may not hear events looks again instead.
        await this.#refresh(this.#parts.feed ? ["project"] : ["project", "rounds"]);
        this.#answerMs = performance.now() - asked;
        this.#parts.labeling?.refresh({ isIdle: true });
      }
      this.#schedule();
    }, wait);
  }

  #showProject() {
    const project = this.#project;
    if (this.badge.textContent !== stateBadge(project).textContent) replaceChildren(this.badge, stateBadge(project));
    this.#parts.machine.show(project);
    this.#parts.summary.show(project);
    this.#parts.controls.show(project);
    this.#parts.imports?.show(project);
    this.#parts.items?.show(project);
    this.#parts.outlook.showProject(project);
    this.label.classList.toggle("primary", project.state === "labeling" && !project.isPaused);
    this.#parts.nextStep?.show(project);
    const main = document.querySelector("main");
    const before = main.dataset.state;
    const isUnstarted = UNSTARTED.includes(project.state);
    main.classList.toggle("unstarted", isUnstarted);
    // What needs a batch isn't offered before there can be one.
    this.label.hidden = isUnstarted;
    this.#tabs.offer((id) => !isUnstarted || id === "overview" || id === "import");
    main.dataset.state = project.state;
    // Before the start there is one thing to do, bring images in; from then on there is something to watch.
    if (!before && isUnstarted && this.#parts.imports && !location.hash) this.#tabs.choose("import");
    else if (UNSTARTED.includes(before) && !isUnstarted) this.#tabs.choose("overview");
  }

  /** Does what the next step names. */
  #follow(name) {
    if (name === "images") {
      this.#tabs.choose("import", { focus: true });
      this.#parts.imports.choose();
    } else this.#parts.controls.run(name);
  }

  #showRounds(rounds) {
    rounds.sort((a, b) => b.number - a.number);
    this.#parts.rounds.show(rounds);
    this.#parts.batch?.show(rounds);
  }

  #showModels(models) {
    this.#parts.models.show(models);
    this.#parts.confusion.show(models);
  }

  async #showCurve() {
    const [, curve] = await Promise.all([this.#parts.curve.show(this.#project), get(projectPath(this.#name, "/curve"))]);
    this.#parts.outlook.showCurve(curve);
  }

  #choose(round) {
    if (!this.#parts.batch) return;
    this.#tabs.choose("batch", { focus: true });
    this.#parts.batch.choose(round.number);
  }
}

/** Which parts an event touches, by the start of its kind. */
const TOUCHES = [
  ["label", ["project", "rounds", "labelers"]],
  ["task.", ["project", "rounds", "labelers"]],
  ["round.", ["project", "rounds"]],
  ["model.", ["project", "rounds", "curve", "models", "labelers"]],
  ["import.", ["project"]],
];

openPage(async () => {
  const [me, project] = await Promise.all([get("/me"), get(projectPath(projectFromAddress()))]);
  await new ProjectPage(readProject(project), me).open();
});
