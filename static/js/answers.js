// What one person answered on this page. Owns the history that undo walks back, and the counts of the session and the day: the day's is the
// service's, which knows of other browsers, with this page's own answers on top.
// Every answer goes through the outbox; this module turns it into the service's requests and back.

import { Problem, call, get, projectPath } from "./api.js";

/** A skip can't be undone at the service, so it is held back this long. */
const SKIP_GRACE_MS = 4000;
const PACE_WINDOW_MS = 5 * 60_000;
/** Over less time than this a pace says nothing. */
const PACE_MINUTES_MIN = 0.1;
const HISTORY_COUNT = 120;

/** Events: `change` (counts), `round` (detail: the round as the service told it), `lost` (detail: `{name, outcome}`). */
export class Answers extends EventTarget {
  #project;
  #outbox;
  #history = [];
  #times = [];
  #store;
  #groupNumber = 0;

  constructor(project, owner, outbox) {
    super();
    this.#project = project;
    this.#outbox = outbox;
    this.#store = `gleaner.count.${owner}.${project}`;
    this.sessionCount = readCount(sessionStorage, this.#store);
    this.dayCount = readCount(localStorage, this.#dayName());
    outbox.addEventListener("answered", ({ detail }) => this.#hear(detail));
  }

  /** Asks the service how much was done today, also elsewhere. */
  async countDay() {
    const before = this.dayCount;
    const waiting = this.#outbox.count;
    const midnight = new Date();
    midnight.setHours(0, 0, 0, 0);
    const own = await get(projectPath(this.#project, `/statistics?since=${encodeURIComponent(midnight.toISOString())}`));
    // What was given while the answer was on its way, or still waits to be sent, isn't in it.
    this.dayCount = own.label_count + waiting + (this.dayCount - before);
    writeCount(localStorage, this.#dayName(), this.dayCount);
    this.#changed();
  }

  /** The latest labels, the newest first: `{key, task, name, colour}`. */
  recent(count) {
    return this.#history
      .filter((entry) => entry.kind === "label")
      .slice(-count)
      .reverse();
  }

  /** The latest answer that can be undone, or `undefined`: `{task, name, colour, kind}`. */
  get last() {
    return this.#history.at(-1);
  }

  /** Labels a minute over the last five minutes, or `null` while there are too few. */
  get pace() {
    const since = Date.now() - PACE_WINDOW_MS;
    const recent = this.#times.filter((time) => time >= since);
    if (recent.length < 3) return null;
    const minutes = (recent.at(-1) - recent[0]) / 60_000;
    return minutes >= PACE_MINUTES_MIN ? (recent.length - 1) / minutes : null;
  }

  /** Gives `task` the class `entry` (`{name, colour}`) after `seconds` of looking. */
  label(task, entry, seconds) {
    const key = this.#send(task, entry, seconds);
    this.#remember({ key, task, kind: "label", name: entry.name, colour: entry.colour, seconds });
  }

  /** Gives several tasks their classes `[{task, entry}]` at once; they are undone at once, too. */
  labelAll(given, seconds) {
    const group = ++this.#groupNumber;
    for (const { task, entry } of given) {
      const key = this.#send(task, entry, seconds);
      this.#remember({ key, task, kind: "label", name: entry.name, colour: entry.colour, seconds, group });
    }
  }

  #send(task, entry, seconds) {
    const label = { task: task.task, class: entry.name, attempt: task.attempt, seconds: Math.round(seconds * 100) / 100 };
    return this.#outbox.put({
      task: task.task,
      project: this.#project,
      kind: "label",
      path: projectPath(this.#project, "/labels"),
      body: { labels: [label] },
    });
  }

  /** Skips `task` for `reason`; `name` is how the reason reads. */
  skip(task, reason, name) {
    const key = this.#outbox.put({
      task: task.task,
      project: this.#project,
      kind: "skip",
      path: projectPath(this.#project, `/tasks/${encodeURIComponent(task.task)}/skip`),
      body: { reason },
      graceMs: SKIP_GRACE_MS,
    });
    this.#remember({ key, task, kind: "skip", name, colour: null });
  }

  /**
   * Takes the latest answer back, or all that were given at once with it, and gives them; their tasks may be shown again. Throws the service's
   * problem when it is too late, and leaves the history as it was when the service can't be reached.
   */
  async undo() {
    const undone = [];
    do {
      const entry = this.#history.pop();
      if (!entry) break;
      try {
        await this.#takeBack(entry);
      } catch (error) {
        if (!(error instanceof Problem) || error.isPassing) this.#history.push(entry);
        if (undone.length === 0) throw error;
        break;
      }
      undone.push(entry);
      if (entry.kind === "label") {
        this.#times.pop();
        this.#count(-1);
      }
    } while (undone[0].group !== undefined && this.#history.at(-1)?.group === undone[0].group);
    return undone;
  }

  /** Gives an earlier answer another class; works at any time, since a correction counts into the next training. */
  async correct(entry, to) {
    const { withdrawn, answer } = await this.#outbox.withdraw(entry.key);
    const label = answer?.results?.[0]?.label;
    if (withdrawn) entry.key = this.#send(entry.task, to, entry.seconds);
    else if (label) await call("PUT", `/labels/${encodeURIComponent(label)}`, { body: { class: to.name } });
    entry.name = to.name;
    entry.colour = to.colour;
    this.#changed();
  }

  async #takeBack(entry) {
    const { withdrawn, answer } = await this.#outbox.withdraw(entry.key);
    if (withdrawn) return;
    if (entry.kind === "skip") throw new SkipIsFinal();
    const label = answer?.results?.[0]?.label;
    if (!label) return;
    await call("DELETE", `/labels/${encodeURIComponent(label)}`);
  }

  #remember(entry) {
    this.#history.push(entry);
    if (this.#history.length > HISTORY_COUNT) this.#history.shift();
    if (entry.kind === "label") {
      this.#times.push(Date.now());
      this.#count(1);
    }
    this.#changed();
  }

  #hear({ entry, answer }) {
    if (answer?.round) this.dispatchEvent(new CustomEvent("round", { detail: answer.round }));
    const outcome = answer?.results?.[0]?.outcome;
    if (outcome && outcome !== "accepted" && outcome !== "duplicate") {
      this.dispatchEvent(new CustomEvent("lost", { detail: { name: entry.body.labels[0].class, outcome } }));
    }
  }

  #count(step) {
    this.sessionCount = Math.max(0, this.sessionCount + step);
    this.dayCount = Math.max(0, this.dayCount + step);
    writeCount(sessionStorage, this.#store, this.sessionCount);
    writeCount(localStorage, this.#dayName(), this.dayCount);
    this.#changed();
  }

  #dayName() {
    const day = new Date();
    return `${this.#store}.${day.getFullYear()}-${day.getMonth() + 1}-${day.getDate()}`;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** A skip that the service has already taken. */
export class SkipIsFinal extends Error {}

function readCount(storage, name) {
  try {
    return Number(storage.getItem(name)) || 0;
  } catch {
    return 0;
  }
}

function writeCount(storage, name, value) {
  try {
    storage.setItem(name, String(value));
  } catch {
    // Counts are a comfort; a browser without storage starts at zero again.
  }
}
