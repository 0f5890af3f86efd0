// The tasks that lie before one labeler. Owns the leases: fetches them ahead together with their decoded images, renews them while somebody
// works, gives them back on leaving, and asks again when there was nothing to do.
// Invariants: a task stands here at most once; a task that was answered here isn't shown again under the same lease, whatever an answer
// of the service that crossed it on the way says.

import { Unreachable, Problem, post, projectPath } from "./api.js";
import { millisecondsUntil, steadyNow } from "./clock.js";

/** Tasks held at once, the one on show included. */
const HELD_COUNT = 12;
/** What the service allows to somebody who works, for when many images are shown at once. */
const HELD_COUNT_MAX = 80;
/** When this many are used up, as many new ones are fetched. */
const REFILL_LAG = 4;
/** Without a key or a touch for so long, leases are left to expire. */
const IDLE_MS = 4 * 60_000;
const OFFLINE_RETRY_SECONDS = 3;
/** How often it is looked whether leases must be renewed; the shortest lease that a project can have is five seconds. */
const RENEW_LOOK_MS = 1500;
/**
 * At the border of a batch the next images come within moments of the last answer: with nothing left the desk looks in short order, before it
 * keeps to the service's own time.
 */
const BORDER_REASONS = ["training", "scoring", "batch_leased_out"];
const BORDER_LOOKS_MS = [60, 90, 140, 200, 300, 450, 700];

/** Events: `change` (the tasks or the reason to wait changed), `lapsed` (the task on show was lost: its lease ran out). */
export class Desk extends EventTarget {
  #project;
  #outbox;
  #tasks = [];
  #heldCount = HELD_COUNT;
  /** Attempt under which each task left the desk. */
  #answered = new Map();
  #busy = false;
  #again = false;
  #retryTimer = null;
  #borderLooks = 0;
  #renewTimer = null;
  #leaseMs = 300_000;
  #activeAt = steadyNow();
  #lapsed = false;
  #resuming = false;
  #closed = false;

  /** Why there is nothing to do: `{reason, retryAt}` or `null`; `reason` is the service's, or "offline". */
  wait = null;

  constructor(project, outbox) {
    super();
    this.#project = project;
    this.#outbox = outbox;
    outbox.addEventListener("answered", () => this.#isLow && this.refill());
    addEventListener("online", () => this.refill());
  }

  /** The task on show, or `undefined`. */
  get current() {
    return this.#tasks[0];
  }

  /** How many tasks are ready, the one on show included. */
  get count() {
    return this.#tasks.length;
  }

  /** Takes up the leases that the labeler already holds, and more. */
  async open() {
    this.#renewTimer = setInterval(() => this.#renew(), RENEW_LOOK_MS);
    await this.refill({ resume: true });
  }

  /** Somebody works: keeps the leases alive, and takes them up again after an absence. */
  touch() {
    this.#activeAt = steadyNow();
    if (this.#lapsed) {
      this.#lapsed = false;
      this.refill({ resume: true });
    }
  }

  /** Takes the task on show off the desk. */
  advance() {
    const task = this.#tasks.shift();
    if (task) this.#noteAnswered(task);
    if (this.#isLow) this.refill();
    this.#changed();
    return task;
  }

  /** All tasks, the one on show first. */
  get tasks() {
    return [...this.#tasks];
  }

  /** Takes several tasks off the desk at once, wherever they lie. */
  takeOff(tasks) {
    for (const task of tasks) this.#noteAnswered(task);
    this.#tasks = this.#tasks.filter((task) => !tasks.includes(task));
    if (this.#isLow) this.refill();
    this.#changed();
  }

  /** Lays a task on top. */
  bringForward(task) {
    this.#tasks = [task, ...this.#tasks.filter((other) => other !== task)];
  }

  /** Holds what is shown at once, and as many again behind it. */
  holdFor(shownCount) {
    this.#heldCount = Math.min(HELD_COUNT_MAX, Math.max(HELD_COUNT, 2 * shownCount + REFILL_LAG));
    if (this.#isLow) this.refill();
  }

  /**
   * Lays a task that was undone back on top, and takes its lease again, since undoing opened it for everybody. Until the service has told
   * the new attempt the task has none: an answer that names the old one would come too late for the lease that crosses it.
   */
  putBack(task) {
    const attempt = this.#answered.get(task.task);
    this.#answered.delete(task.task);
    const twin = this.#tasks.find((other) => other.task === task.task);
    task.attempt = twin?.attempt;
    task.undoneAttempt = attempt;
    this.#tasks = [task, ...this.#tasks.filter((other) => other !== twin)];
    this.#changed();
    if (!twin) this.refill({ resume: true });
  }

  get #isLow() {
    return this.#tasks.length <= this.#heldCount - REFILL_LAG;
  }

  /** Fetches more tasks if few are left; `resume` also takes up those that the labeler holds already. */
  async refill({ resume = false } = {}) {
    if (this.#closed) return;
    // After a lost reply the service may hold leases for us that we don't know: the next call asks for them too.
    this.#resuming ||= resume;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    clearTimeout(this.#retryTimer);
    const resumes = this.#resuming;
    this.#resuming = false;
    try {
      await this.#lease(resumes);
    } catch (error) {
      this.#stall(error);
    } finally {
      this.#busy = false;
    }
    this.#changed();
    if (this.#again) {
      this.#again = false;
      if (this.#resuming || (this.#isLow && !this.wait)) await this.refill();
    }
  }

  /** Gives every lease back; `keepalive` for when the page goes away. */
  async release({ keepalive = false } = {}) {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    clearInterval(this.#renewTimer);
    const tasks = this.#tasks.map((task) => task.task);
    if (tasks.length === 0) return;
    try {
      await post(projectPath(this.#project, "/leases/release"), { tasks }, { keepalive, stay: true });
    } catch {
      // They expire by themselves.
    }
  }

  async #lease(resume) {
    const missing = this.#heldCount - this.#tasks.length;
    if (missing <= 0 && !resume) return;
    // On resuming, the count includes what is held.
    const count = resume ? Math.max(this.#heldCount, this.#tasks.length) : missing;
    const answer = await post(projectPath(this.#project, "/leases"), { count, resume });
    if (resume) this.#keepOnly(answer.tasks);
    for (const task of answer.tasks) this.#take(task);
    const until = answer.tasks[0] && millisecondsUntil(answer.tasks[0].expires_at);
    if (until > 1000) this.#leaseMs = until;
    this.#setWait(answer.tasks.length === 0 ? answer.wait : null);
  }

  #take(leased) {
    const known = this.#tasks.find((task) => task.task === leased.task);
    if (known) Object.assign(known, { attempt: leased.attempt, leasedAt: steadyNow() });
    else if (!this.#wasAnswered(leased)) this.#tasks.push(prepare(leased));
  }

  /** A task that was answered before its new attempt was known is the one after the undone. */
  #noteAnswered(task) {
    this.#answered.set(task.task, task.attempt ?? task.undoneAttempt + 1);
  }

  #wasAnswered(leased) {
    return this.#outbox.holds(leased.task) || this.#answered.get(leased.task) >= leased.attempt;
  }

  /** Tasks that the service no longer lists as held were given to others. */
  #keepOnly(held) {
    const names = new Set(held.map((task) => task.task));
    const isLost = this.current && !names.has(this.current.task);
    this.#tasks = this.#tasks.filter((task) => names.has(task.task));
    if (isLost) this.dispatchEvent(new Event("lapsed"));
  }

  #setWait(wait) {
    if (!wait) {
      this.wait = null;
      this.#borderLooks = 0;
      return;
    }
    const isBorder = this.#tasks.length === 0 && BORDER_REASONS.includes(wait.reason);
    const soon = isBorder ? BORDER_LOOKS_MS[this.#borderLooks++] : undefined;
    const ms = soon ?? Math.max(1, wait.retry_after_seconds ?? 5) * 1000;
    this.wait = { reason: wait.reason, retryAt: steadyNow() + ms };
    this.#retryTimer = setTimeout(() => this.refill(), ms);
  }

  #stall(error) {
    this.#resuming = true;
    if (error instanceof Unreachable || (error instanceof Problem && error.isPassing)) {
      this.#setWait({ reason: "offline", retry_after_seconds: error.retryAfterSeconds ?? OFFLINE_RETRY_SECONDS });
      return;
    }
    this.wait = { reason: "refused", problem: error, retryAt: null };
  }

  async #renew() {
    if (this.#tasks.length === 0 || this.#lapsed) return;
    const now = steadyNow();
    if (now - this.#activeAt > Math.max(IDLE_MS, this.#leaseMs / 2)) {
      this.#lapsed = true;
      return;
    }
    const eldest = Math.min(...this.#tasks.map((task) => task.leasedAt));
    if (now - eldest < Math.min(this.#leaseMs / 3, 60_000)) return;
    const renewed = [...this.#tasks];
    try {
      const { count } = await post(projectPath(this.#project, "/leases/renew"), { tasks: renewed.map((task) => task.task) });
      for (const task of renewed) task.leasedAt = now;
      // Some were lost to others: the service says which are left.
      if (count < renewed.length) await this.refill({ resume: true });
    } catch (error) {
      if (error instanceof Problem && !error.isPassing) await this.refill({ resume: true });
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Begins to load and decode the image, so that it can be painted in the frame in which it is asked for. */
function prepare(task) {
  const image = new Image();
  image.decoding = "sync";
  image.alt = "";
  image.draggable = false;
  image.src = task.image_url;
  const prepared = { ...task, image, isLoaded: false, isBroken: false, leasedAt: steadyNow() };
  prepared.loaded = image.decode().then(
    () => (prepared.isLoaded = true),
    () => (prepared.isBroken = true),
  );
  return prepared;
}

/** Loads the image of a task once more, after it failed. */
export function reloadImage(task) {
  return Object.assign(task, prepare(task));
}
