// The labeler's page. Owns its layout and its keys; leases are desk.js, answers are answers.js, the queue is outbox.js, the image viewer.js.
// The rule of the page: a key shows the next image in the same frame; everything that talks to the service happens behind that.

import { get, leaveForLogin, projectPath } from "./api.js";
import { AnswerToast } from "./answer_toast.js";
import { Answers, SkipIsFinal } from "./answers.js";
import { ClassPanel } from "./class_panel.js";
import { Desk, reloadImage } from "./desk.js";
import { element, icon, replaceChildren } from "./dom.js";
import { count } from "./format.js";
import { Grid } from "./grid.js";
import { dealKeys } from "./hotkeys.js";
import { Outbox } from "./outbox.js";
import { Recent } from "./recent.js";
import { Guidelines, openKeyHelp } from "./reference.js";
import { readProject, readRound } from "./shapes.js";
import { isOperator, layOut, openDialog, openPage, projectFromAddress, toast, toastProblem } from "./shell.js";
import { listenForSwipes } from "./swipe.js";
import { text } from "./text.js";
import { barTool, fact, tool } from "./tools.js";
import { Viewer } from "./viewer.js";
import { WaitingCard, progressBar } from "./waiting.js";

const FOLLOW_MS = 4000;
/** Whoever works hears of the batch with each answer, so the project is asked for seldom. */
const FOLLOW_AT_WORK_MS = 30_000;
const LEAVE_MS = 2000;
/** So long an image that was answered stays, dimmed, before the page says that there is nothing to do: a batch's border is crossed by then. */
const PASSING_MS = 800;
/** A glance of over ten minutes was a break, not a look. */
const LOOK_SECONDS_MAX = 600;
/** Where an arrow moves a zoomed image: what lies in its direction comes into sight. */
const PAN = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };

class LabelPage {
  #project;
  #me;
  #outbox;
  #desk;
  #answers;
  #viewer;
  #classes;
  #waiting;
  #recent;
  #grid;
  #guidelines;
  #toast;
  #shown = null;
  #shownAt = 0;
  #passingUntil = 0;
  #isNoting = false;
  #undoing = false;
  #isGrid = false;
  /** Tasks that were marked in the grid, to be shown alone. */
  #aside = new Set();
  #round = null;
  #followedAt = 0;

  constructor(project, me, outbox) {
    this.#project = project;
    this.#me = me;
    this.#outbox = outbox;
    this.#round = project.round;
    this.#answers = new Answers(project.name, me.id, outbox);
    this.#desk = new Desk(project.name, outbox);
    const classes = dealKeys(project.classes);
    this.#classes = new ClassPanel(classes, (entry) => this.#answer(entry));
    this.#recent = new Recent(this.#answers, classes);
    this.#grid = new Grid(
      classes,
      (right, wrong) => this.#answerGrid(right, wrong),
      () => this.#resizeGrid(),
    );
    this.#guidelines = new Guidelines(project.guidelines);
    this.#toast = new AnswerToast(() => this.#undo());
    this.#waiting = new WaitingCard(() => this.#desk.refill());
    this.#build();
    this.#viewer = new Viewer(this.stage);
    this.#listen();
  }

  async open() {
    this.#showWait({ reason: "loading", retryAt: null });
    this.#showCounts();
    // What other browsers have counted today comes in when it comes.
    this.#answers.countDay().catch(() => {});
    await this.#desk.open();
    setInterval(() => this.#follow(), FOLLOW_MS);
  }

  #build() {
    this.stage = element("div", { class: "stage" });
    this.batch = element("div", { class: "batch" });
    this.session = element("div", { class: "session" });
    this.saving = element("button", { type: "button", class: "saving", on: { click: () => this.#retrySaving() } });
    this.gridTool = tool("grid", text.grid.toggle, "M", () => this.#toggleGrid(), "symbol");
    this.gridTool.setAttribute("aria-pressed", "false");
    this.gridTool.hidden = !this.#project.showSuggestions;
    const tools = element(
      "div",
      { class: "tools", role: "toolbar", "aria-label": text.label.tools },
      tool("skip", text.label.skip, "S", () => this.#askSkip()),
      tool("undo", text.label.undo, "U", () => this.#undo()),
      element("span", { class: "tools-gap" }),
      this.gridTool,
      element(
        "div",
        { class: "tool-group", role: "group", "aria-label": text.label.view },
        // On a phone two fingers zoom.
        tool("minus", text.label.zoomOut, "−", () => this.#viewer.zoomOut(), "wide symbol"),
        tool("plus", text.label.zoomIn, "+", () => this.#viewer.zoomIn(), "wide symbol"),
        tool("fit", text.label.fit, "Z", () => this.#viewer.reset(), "wide symbol"),
        tool("moon", text.label.darker, "[", () => this.#viewer.brighten(-1), "symbol"),
        tool("sun", text.label.brighter, "]", () => this.#viewer.brighten(1), "symbol"),
      ),
    );
    const main = element(
      "main",
      { class: "desk" },
      element("h1", { class: "unseen" }, text.label.heading(this.#project.name)),
      this.#guidelines.element,
      element("section", { class: "work", "aria-label": text.label.image }, this.stage, this.#toast.element, tools),
      element("div", { class: "side" }, this.#classes.element, this.#recent.element, this.session),
    );
    layOut({
      me: this.#me,
      title: text.label.title(this.#project.name),
      middle: [this.#projectName(), this.batch],
      end: [
        this.saving,
        barTool("book", text.label.guidelines, () => this.#guidelines.toggle()),
        barTool("help", text.label.help, openKeyHelp),
      ],
      main,
      beforeLeave: () => this.#leave(),
    });
  }

  #projectName() {
    const name = this.#project.name;
    if (!isOperator(this.#me)) return element("span", { class: "bar-project" }, name);
    return element("a", { class: "bar-project", href: `/projects/${encodeURIComponent(name)}` }, name);
  }

  #listen() {
    this.#desk.addEventListener("change", () => this.#render());
    this.#desk.addEventListener("lapsed", () => toast(text.label.lapsed));
    this.#answers.addEventListener("change", () => this.#noteLater());
    this.#answers.addEventListener("round", ({ detail }) => this.#setRound(readRound(detail)));
    this.#answers.addEventListener("lost", ({ detail }) =>
      toast(text.label.lost(detail.name, detail.outcome), { tone: "bad", lasting: true }),
    );
    this.#outbox.addEventListener("change", () => {
      this.#showSaving();
      this.#showBatch();
    });
    this.#outbox.addEventListener("refused", ({ detail }) => toastProblem(detail.problem));
    document.addEventListener("keydown", (event) => this.#press(event));
    document.addEventListener("click", (event) => this.#leaveByLink(event));
    listenForSwipes(this.stage, { right: () => this.#acceptAction()?.(), left: () => this.#askSkip() });
    for (const sign of ["keydown", "pointerdown", "visibilitychange"]) document.addEventListener(sign, () => this.#desk.touch());
    // A reload comes back to its leases, so they aren't given back here; an answer in its grace is sent.
    addEventListener("pagehide", () => this.#outbox.sendOnUnload());
    this.#showSaving();
  }

  #render() {
    const task = this.#desk.current;
    const isPassing = !task && this.#isPassing();
    this.stage.classList.toggle("passing", isPassing);
    if (!task) {
      this.#shown = null;
      if (!isPassing) this.#showWait(this.#desk.wait ?? { reason: "loading", retryAt: null });
      return;
    }
    const many = this.#gridTasks();
    if (many.length > 1) {
      this.#showGrid(many);
      return;
    }
    if (task === this.#shown) return;
    if (task.isBroken) this.#showBroken(task);
    else if (task.isLoaded) this.#show(task);
    else this.#showWhenLoaded(task);
  }

  /** Whether the last image still stands in for the next, which is about to come. */
  #isPassing() {
    if (this.#shown) {
      this.#passingUntil = performance.now() + PASSING_MS;
      this.#classes.suggest([]);
      this.#classes.setEnabled(false);
      setTimeout(() => this.#render(), PASSING_MS);
    }
    return performance.now() < this.#passingUntil;
  }

  #show(task) {
    this.#shown = task;
    this.#shownAt = performance.now();
    this.#viewer.show(task.image, text.label.imageAlt);
    this.#classes.suggest(this.#project.showSuggestions ? task.suggestions : []);
    this.#classes.setEnabled(true);
  }

  /** The tasks that the grid shows; none while something marked waits to be shown alone. */
  #gridTasks() {
    if (!this.#isGrid || this.#aside.has(this.#desk.current.task)) return [];
    return this.#desk.tasks.filter((task) => this.#grid.fits(task)).slice(0, this.#grid.size);
  }

  #showGrid(tasks) {
    this.#shown = null;
    this.#classes.suggest([]);
    this.#classes.setEnabled(false);
    if (!this.#grid.element.isConnected) {
      this.#viewer.showContent(this.#grid.element);
      this.#shownAt = performance.now();
    }
    this.#grid.show(tasks);
  }

  #toggleGrid() {
    if (!this.#project.showSuggestions) return;
    if (!this.#isGrid && this.#desk.current && !this.#desk.tasks.some((task) => this.#grid.fits(task))) {
      this.#toast.showMessage(text.grid.seed);
      return;
    }
    this.#isGrid = !this.#isGrid;
    // Whoever asks for many wants those, too, that came back to be shown alone.
    if (this.#isGrid) this.#aside.clear();
    this.gridTool.setAttribute("aria-pressed", String(this.#isGrid));
    this.#resizeGrid();
  }

  #resizeGrid() {
    this.#shown = null;
    this.#desk.holdFor(this.#isGrid ? this.#grid.size : 1);
    this.#render();
  }

  #answerGrid(right, wrong) {
    const seconds = (performance.now() - this.#shownAt) / 1000 / Math.max(1, right.length + wrong.length);
    this.#answers.labelAll(right, Math.min(LOOK_SECONDS_MAX, seconds));
    for (const task of wrong.reverse()) {
      this.#aside.add(task.task);
      this.#desk.bringForward(task);
    }
    this.#shownAt = performance.now();
    this.#desk.takeOff(right.map(({ task }) => task));
    if (right.length > 0) this.#toast.showAnswer({ name: text.label.givenMany(count(right.length)), colour: null });
  }

  #showWhenLoaded(task) {
    this.#shown = null;
    this.#classes.setEnabled(false);
    this.#viewer.showContent(element("div", { class: "spinner", role: "status", "aria-label": text.label.loading }));
    task.loaded.then(() => this.#desk.current === task && this.#render());
  }

  #showBroken(task) {
    this.#shown = null;
    this.#classes.setEnabled(false);
    const again = () => {
      reloadImage(task);
      this.#render();
    };
    const card = element(
      "div",
      { class: "wait-card", role: "status" },
      element("h2", {}, text.label.broken.title),
      element("p", {}, text.label.broken.body),
      element(
        "div",
        { class: "row" },
        element("button", { type: "button", class: "button primary", on: { click: again } }, text.label.broken.again),
        element("button", { type: "button", class: "button", on: { click: () => this.#skip("broken") } }, text.label.broken.skip),
      ),
    );
    this.#viewer.showContent(card);
  }

  #showWait(wait) {
    this.#classes.suggest([]);
    this.#classes.setEnabled(false);
    this.#waiting.show(wait, this.#project.progress);
    if (!this.#waiting.element.isConnected) this.#viewer.showContent(this.#waiting.element);
  }

  #answer(entry) {
    const task = this.#shown;
    if (!task || this.#undoing) return;
    const seconds = Math.min(LOOK_SECONDS_MAX, (performance.now() - this.#shownAt) / 1000);
    this.#classes.flash(entry.name);
    this.#desk.advance();
    this.#answers.label(task, entry, seconds);
    this.#toast.showAnswer(entry);
  }

  #skip(reason) {
    const task = this.#desk.current;
    if (!task || this.#undoing) return;
    this.#desk.advance();
    this.#answers.skip(task, reason, text.skip[reason].done);
    this.#toast.showAnswer({ name: text.skip[reason].done, colour: null });
  }

  async #undo() {
    if (this.#undoing) return;
    if (!this.#answers.last) {
      this.#toast.showMessage(text.label.nothingToUndo);
      return;
    }
    this.#undoing = true;
    try {
      const entries = await this.#answers.undo();
      for (const entry of entries) {
        // A whole sheet comes back as a sheet; a single image is shown alone.
        if (entries.length === 1) this.#aside.add(entry.task.task);
        this.#desk.putBack(entry.task);
      }
      const [last] = entries;
      this.#toast.showMessage(entries.length === 1 ? text.label.undone(last.name) : text.label.undoneMany(count(entries.length)));
    } catch (error) {
      if (error instanceof SkipIsFinal) toast(text.label.skipIsFinal);
      else if (error.message === "offline") toast(text.label.undoOffline);
      else toastProblem(error);
    } finally {
      this.#undoing = false;
    }
  }

  #askSkip() {
    if (!this.#desk.current) return;
    const reasons = ["unsure", "broken", "not_in_classes"];
    const choose = (reason) => {
      dialog.close();
      this.#skip(reason);
    };
    const buttons = reasons.map((reason, index) =>
      element(
        "button",
        { type: "button", class: "choice", autofocus: index === 0, on: { click: () => choose(reason) } },
        element("kbd", {}, String(index + 1)),
        element("span", {}, element("strong", {}, text.skip[reason].title), element("span", { class: "hint" }, text.skip[reason].body)),
      ),
    );
    const dialog = openDialog({ title: text.skip.title, body: element("div", { class: "choices" }, buttons) });
    dialog.addEventListener("keydown", (event) => {
      const reason = reasons[Number(event.key) - 1];
      if (!reason) return;
      // The same key names a class on the page below.
      event.preventDefault();
      choose(reason);
    });
  }

  #press(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || event.target.closest?.("input, textarea, select")) return;
    const act = this.#actionFor(event);
    if (!act) return;
    event.preventDefault();
    if (!event.repeat || PAN[event.key]) act();
  }

  /** What a key does, or `null`. Enter and space stay with a focused button. */
  #actionFor(event) {
    const key = event.key;
    const inGrid = this.#grid.element.isConnected;
    if (inGrid && /^[1-9]$/.test(key)) return () => this.#grid.toggle(Number(key) - 1);
    if (inGrid && key.startsWith("Arrow")) return () => this.#grid.move(key);
    if (PAN[key] && this.#viewer.isZoomed) return () => this.#viewer.pan(...PAN[key]);
    const onControl = event.target.closest?.("button, a, [role=button]");
    if (key === "Enter" && onControl) return null;
    if (key === "Enter") return inGrid ? () => this.#grid.confirm() : this.#acceptAction();
    const fixed = {
      u: () => this.#undo(),
      Backspace: () => this.#undo(),
      s: () => this.#askSkip(),
      g: () => this.#guidelines.toggle(),
      m: () => this.#toggleGrid(),
      z: () => this.#viewer.reset(),
      "+": () => this.#viewer.zoomIn(),
      "=": () => this.#viewer.zoomIn(),
      "-": () => this.#viewer.zoomOut(),
      "]": () => this.#viewer.brighten(1),
      "[": () => this.#viewer.brighten(-1),
      "?": openKeyHelp,
      "/": () => this.#classes.focusFilter(),
    };
    const act = fixed[key.length === 1 ? key.toLowerCase() : key];
    if (act) return act;
    const entry = this.#classes.find(key);
    return entry ? () => this.#answer(entry) : null;
  }

  #acceptAction() {
    const guess = this.#project.showSuggestions && this.#shown?.suggestions?.[0];
    const entry = guess && this.#classes.named(guess.class);
    return entry ? () => this.#answer(entry) : null;
  }

  /** Counts and the latest answers can wait until the next image is on the screen. */
  #noteLater() {
    if (this.#isNoting) return;
    this.#isNoting = true;
    const note = () => {
      this.#isNoting = false;
      this.#showCounts();
      this.#recent.show();
    };
    requestAnimationFrame(() => setTimeout(note));
  }

  #showCounts() {
    const { sessionCount, dayCount, pace } = this.#answers;
    replaceChildren(
      this.session,
      fact(count(sessionCount), text.label.thisSession),
      fact(count(dayCount), text.label.today),
      fact(pace === null ? "–" : count(pace), text.label.aMinute),
    );
    this.#showBatch();
  }

  #setRound(round) {
    if (round) this.#round = round;
    this.#showBatch();
  }

  #showBatch() {
    const round = this.#round;
    if (!round || !round.taskCount) {
      replaceChildren(this.batch);
      return;
    }
    const done = Math.min(round.taskCount, round.answeredCount + this.#outbox.count);
    const words = text.label.batch(round.number, count(done), count(round.taskCount));
    replaceChildren(this.batch, progressBar(done / round.taskCount, words), element("span", { class: "batch-text" }, words));
  }

  #showSaving() {
    const { count: unsaved, connection } = this.#outbox;
    const state = connection === "signed_out" || connection === "offline" ? connection : unsaved > 0 ? "sending" : "saved";
    this.saving.className = `saving ${state}`;
    const words = text.saving[state](unsaved);
    if (this.saving.textContent !== words)
      replaceChildren(this.saving, icon(state === "saved" ? "check" : state === "sending" ? "cloud" : "alert"), element("span", {}, words));
    this.saving.disabled = state === "saved" || state === "sending";
    if (connection === "idle" && unsaved === 0 && this.#desk?.wait?.reason === "offline") this.#desk.refill();
  }

  #retrySaving() {
    if (this.#outbox.connection === "signed_out") leaveForLogin();
    else this.#outbox.hurry();
  }

  /** Keeps the batch's progress and the running job up to date while the page is looked at. */
  async #follow() {
    if (document.hidden || (this.#desk.current && performance.now() - this.#followedAt < FOLLOW_AT_WORK_MS)) return;
    this.#followedAt = performance.now();
    try {
      const project = readProject(await get(projectPath(this.#project.name)));
      this.#project = { ...this.#project, progress: project.progress, showSuggestions: project.showSuggestions };
      if (project.round?.taskCount) this.#round = project.round;
    } catch {
      // The desk and the outbox say when the service is away.
      return;
    }
    this.#showBatch();
    if (!this.#desk.current && this.#desk.wait && performance.now() >= this.#passingUntil) this.#showWait(this.#desk.wait);
  }

  /** Before a link is followed, leases go back so that others can take the tasks. */
  #leaveByLink(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || link.target || link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    this.#leave().then(() => location.assign(link.href));
  }

  async #leave() {
    this.#outbox.hurry();
    const done = Promise.all([this.#desk.release({ keepalive: true }), this.#outbox.drained()]);
    // Answers are on disk and leases expire, so a slow service needn't hold anybody back.
    await Promise.race([done, new Promise((resolve) => setTimeout(resolve, LEAVE_MS))]);
  }
}

openPage(async () => {
  const [me, project] = await Promise.all([get("/me"), get(projectPath(projectFromAddress()))]);
  const outbox = await Outbox.open(me.id);
  await new LabelPage(readProject(project), me, outbox).open();
});
