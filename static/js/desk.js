// The tasks that lie before one labeler. Owns the leases: fetches them ahead together with their decoded images, renews them while somebody
// works, gives them back on leaving, and asks again when there was nothing to do.
// Invariants: a task stands here at most once; a task whose answer still waits in the outbox is never shown again.

import { Unreachable, Problem, post, projectPath } from "./api.js";

/** Tasks held at once, the one on show included; the service allows 20 to an idle labeler. */
const HELD_COUNT = 12;
/** Below this many a new lot is fetched. */
const REFILL_COUNT = 8;
/** Without a key or a touch for so long, leases are left to expire. */
const IDLE_MS = 4 * 60_000;
const OFFLINE_RETRY_SECONDS = 3;

/** Events: `change` (the tasks or the reason to wait changed), `lapsed` (the task on show was lost: its lease ran out). */
export class Desk extends EventTarget {
  #project;
  #outbox;
  #tasks = [];
  #busy = false;
  #again = false;
  #retryTimer = null;
  #renewTimer = null;
  #leaseMs = 300_000;
  #activeAt = Date.now();
  #lapsed = false;
  #replyLost = false;
  #closed = false;

  /** Why there is nothing to do: `{reason, retryAt}` or `null`; `reason` is the service's, or "offline". */
  wait = null;

  constructor(project, outbox) {
    super();
    this.#project = project;
    this.#outbox = outbox;
    outbox.addEventListener("answered", () => this.#tasks.length < REFILL_COUNT && this.refill());
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
    this.#renewTimer = setInterval(() => this.#renew(), 15_000);
    await this.refill({ resume: true });
  }

  /** Somebody works: keeps the leases alive, and takes them up again after an absence. */
  touch() {
    this.#activeAt = Date.now();
    if (this.#lapsed) {
      this.#lapsed = false;
      this.refill({ resume: true });
    }
  }

  /** Takes the task on show off the desk. */
  advance() {
    const task = this.#tasks.shift();
    if (this.#tasks.length < REFILL_COUNT) this.refill();
    this.#changed();
    return task;
  }

  /** Lays a task that was undone back on top. */
  putBack(task) {
    this.#tasks = [task, ...this.#tasks.filter((other) => other.task !== task.task)];
    this.#changed();
  }

  /** Fetches more tasks if few are left; `resume` also takes up those that the labeler holds already. */
  async refill({ resume = false } = {}) {
    if (this.#closed) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    clearTimeout(this.#retryTimer);
    try {
      await this.#lease(resume || this.#replyLost);
      this.#replyLost = false;
    } catch (error) {
      this.#stall(error);
    } finally {
      this.#busy = false;
    }
    this.#changed();
    if (this.#again) {
      this.#again = false;
      if (this.#tasks.length < REFILL_COUNT && !this.wait) await this.refill();
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
    const missing = HELD_COUNT - this.#tasks.length;
    if (missing <= 0 && !resume) return;
    const body = { count: Math.max(missing, 1) };
    if (resume) body.resume = true;
    const answer = await post(projectPath(this.#project, "/leases"), body);
    const known = new Set(this.#tasks.map((task) => task.task));
    const fresh = answer.tasks.filter((task) => !known.has(task.task) && !this.#outbox.holds(task.task));
    if (resume) this.#keepOnly(answer.tasks);
    for (const task of fresh) this.#tasks.push(prepare(task));
    const until = answer.tasks[0] && new Date(answer.tasks[0].expires_at).getTime() - Date.now();
    if (until > 1000) this.#leaseMs = until;
    this.#setWait(answer.tasks.length === 0 ? answer.wait : null);
  }

  /** After an absence: tasks that the service no longer lists were given to others. */
  #keepOnly(held) {
    const attempts = new Map(held.map((task) => [task.task, task]));
    const lost = this.current && !attempts.has(this.current.task);
    this.#tasks = this.#tasks.filter((task) => attempts.has(task.task));
    for (const task of this.#tasks) Object.assign(task, { attempt: attempts.get(task.task).attempt });
    if (lost) this.dispatchEvent(new Event("lapsed"));
  }

  #setWait(wait) {
    if (!wait) {
      this.wait = null;
      return;
    }
    const seconds = Math.max(1, wait.retry_after_seconds ?? 5);
    this.wait = { reason: wait.reason, retryAt: Date.now() + seconds * 1000 };
    this.#retryTimer = setTimeout(() => this.refill(), seconds * 1000);
  }

  #stall(error) {
    // The service may have leased tasks without our knowing: the next call asks for them too.
    this.#replyLost = true;
    if (error instanceof Unreachable || (error instanceof Problem && error.isPassing)) {
      this.#setWait({ reason: "offline", retry_after_seconds: error.retryAfterSeconds ?? OFFLINE_RETRY_SECONDS });
      return;
    }
    this.wait = { reason: "refused", problem: error, retryAt: null };
  }

  async #renew() {
    if (this.#tasks.length === 0 || this.#lapsed) return;
    const now = Date.now();
    if (now - this.#activeAt > Math.max(IDLE_MS, this.#leaseMs / 2)) {
      this.#lapsed = true;
      return;
    }
    const eldest = Math.min(...this.#tasks.map((task) => task.leasedAt));
    if (now - eldest < Math.min(this.#leaseMs / 3, 60_000)) return;
    const renewed = [...this.#tasks];
    try {
      await post(projectPath(this.#project, "/leases/renew"), { tasks: renewed.map((task) => task.task) });
      for (const task of renewed) task.leasedAt = now;
    } catch (error) {
      // A refusal means that some were lost; the service says which are left.
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
  const prepared = { ...task, image, isLoaded: false, isBroken: false, leasedAt: Date.now() };
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
