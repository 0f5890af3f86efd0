// The queue of answers that the service hasn't confirmed yet. Owns the IndexedDB store "outbox".
// Invariants: an answer is written to disk before it is sent; it keeps one Idempotency-Key for all attempts, so the service counts it
// once; it leaves the store only when the service has answered; answers of one person are never sent under another's session;
// one tab at a time sends (a Web Lock; without locks the key alone makes a twin harmless).

import { Problem, call, newKey } from "./api.js";

const STORE = "outbox";
const RETRY_MS = [500, 1000, 2000, 4000, 8000, 15000];

/**
 * Events: `change` (count or connection changed), `answered` (detail: `{entry, answer}`), `refused` (detail: `{entry, problem}`).
 */
export class Outbox extends EventTarget {
  #database;
  #owner;
  #entries = new Map();
  #answers = new Map();
  #inFlight = null;
  #failureCount = 0;
  #timer = null;
  #running = false;

  /** "idle" | "sending" | "offline" | "signed_out" */
  connection = "idle";

  /** Opens the store and begins to send what `owner` left unsent. */
  static async open(owner) {
    const outbox = new Outbox();
    outbox.#owner = owner;
    outbox.#database = await openDatabase();
    // What an earlier page left may have reached the service without an answer: it counts as tried.
    for (const entry of await outbox.#readAll()) outbox.#entries.set(entry.key, { ...entry, notBefore: 0, tried: true });
    addEventListener("online", () => outbox.#sendNow());
    document.addEventListener("visibilitychange", () => outbox.#sendNow());
    outbox.#sendNow();
    return outbox;
  }

  /** How many answers the service hasn't confirmed. */
  get count() {
    return this.#entries.size;
  }

  /** Whether an answer for `task` waits here. */
  holds(task) {
    for (const entry of this.#entries.values()) if (entry.task === task) return true;
    return false;
  }

  /**
   * Keeps a request and sends it in the background; gives its key at once.
   * `graceMs` holds it back for that long, so that it can still be withdrawn.
   */
  put({ task, project, path, body, kind, graceMs = 0 }) {
    const entry = { key: newKey(), owner: this.#owner, task, project, path, body, kind, at: Date.now(), notBefore: Date.now() + graceMs };
    this.#entries.set(entry.key, entry);
    this.#changed();
    // A browser that can't store it (disk full) must still send it.
    this.#write(entry)
      .catch(() => {})
      .then(() => this.#sendNow());
    return entry.key;
  }

  /**
   * Takes an answer back if it wasn't sent. Gives `{withdrawn: true}`, or `{withdrawn: false, answer}` with what the service said.
   */
  async withdraw(key) {
    if (this.#inFlight?.key === key) await this.#inFlight.done;
    const entry = this.#entries.get(key);
    // A failed attempt may have reached the service all the same: only its answer, under the same key, tells.
    if (entry && !entry.tried) {
      await this.#remove(entry);
      return { withdrawn: true };
    }
    if (entry) await this.#settled(key);
    return { withdrawn: false, answer: this.#answers.get(key) ?? null };
  }

  /** Ends the grace of every answer. */
  hurry() {
    for (const entry of this.#entries.values()) entry.notBefore = 0;
    this.#sendNow();
  }

  /** Sends what still waits while the page is being unloaded; the store keeps it, and a later page sends it again under the same key. */
  sendOnUnload() {
    for (const entry of this.#entries.values()) {
      if (entry.key !== this.#inFlight?.key) {
        call("POST", entry.path, { body: entry.body, key: entry.key, keepalive: true, stay: true }).catch(() => {});
      }
    }
  }

  /** Waits until nothing is left to send, or the network fails. */
  async drained() {
    while (this.count > 0 && this.connection !== "offline" && this.connection !== "signed_out") {
      await new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
    }
  }

  #settled(key) {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!this.#entries.has(key)) finish(resolve);
        else if (this.connection === "offline" || this.connection === "signed_out") finish(() => reject(new Error(this.connection)));
      };
      const finish = (end) => {
        this.removeEventListener("change", look);
        end();
      };
      this.addEventListener("change", look);
      look();
    });
  }

  #sendNow() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#running || this.count === 0) return;
    this.#running = true;
    const run = () => this.#sendAll();
    const turn = navigator.locks ? navigator.locks.request(`gleaner.outbox.${this.#owner}`, run) : run();
    Promise.resolve(turn).finally(() => {
      this.#running = false;
      this.#schedule();
    });
  }

  async #sendAll() {
    for (let entry = this.#nextDue(); entry; entry = this.#nextDue()) {
      let settle;
      this.#inFlight = { key: entry.key, done: new Promise((resolve) => (settle = resolve)) };
      const went = await this.#send(entry).finally(settle);
      this.#inFlight = null;
      if (!went) return;
    }
    this.#setConnection("idle");
  }

  #nextDue() {
    for (const entry of this.#entries.values()) if (msUntilDue(entry) === 0) return entry;
    return null;
  }

  async #send(entry) {
    if (this.connection !== "offline") this.#setConnection("sending");
    entry.tried = true;
    try {
      const answer = await call("POST", entry.path, { body: entry.body, key: entry.key, keepalive: true, stay: true });
      this.#answers.set(entry.key, answer);
      this.#failureCount = 0;
      await this.#remove(entry);
      this.dispatchEvent(new CustomEvent("answered", { detail: { entry, answer } }));
      return true;
    } catch (problem) {
      return this.#fail(entry, problem);
    }
  }

  async #fail(entry, problem) {
    if (problem instanceof Problem && problem.status === 401) {
      this.#setConnection("signed_out");
      return false;
    }
    if (problem instanceof Problem && !problem.isPassing) {
      await this.#remove(entry);
      this.dispatchEvent(new CustomEvent("refused", { detail: { entry, problem } }));
      return true;
    }
    this.#failureCount += 1;
    this.#setConnection("offline");
    return false;
  }

  #schedule() {
    if (this.count === 0 || this.connection === "signed_out") return;
    let delay = 0;
    if (this.connection === "offline") {
      delay = RETRY_MS[Math.min(this.#failureCount, RETRY_MS.length) - 1] ?? RETRY_MS[0];
    } else {
      delay = Math.min(...Array.from(this.#entries.values(), msUntilDue));
    }
    this.#timer = setTimeout(() => this.#sendNow(), delay);
  }

  #setConnection(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  async #readAll() {
    if (!this.#database) return [];
    const rows = await finished(this.#database.transaction(STORE).objectStore(STORE).getAll());
    return rows.filter((row) => row.owner === this.#owner).sort((a, b) => a.at - b.at);
  }

  async #write(entry) {
    if (!this.#database || !this.#entries.has(entry.key)) return;
    await finished(this.#database.transaction(STORE, "readwrite", { durability: "strict" }).objectStore(STORE).put(entry));
  }

  async #remove(entry) {
    this.#entries.delete(entry.key);
    if (this.#database) await finished(this.#database.transaction(STORE, "readwrite").objectStore(STORE).delete(entry.key));
    this.#changed();
  }
}

/** How long an answer is still held back. One from the future was kept before the clock was set back, and has waited long enough. */
function msUntilDue(entry) {
  const now = Date.now();
  return entry.at > now ? 0 : Math.max(0, entry.notBefore - now);
}

/** Gives `null` where the browser keeps nothing (private windows): answers then last as long as the page. */
function openDatabase() {
  return new Promise((resolve) => {
    const request = indexedDB.open("gleaner", 1);
    request.addEventListener("upgradeneeded", () => request.result.createObjectStore(STORE, { keyPath: "key" }));
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => resolve(null));
  });
}

function finished(request) {
  return new Promise((resolve, reject) => {
    request.transaction.addEventListener("complete", () => resolve(request.result));
    request.transaction.addEventListener("abort", () => reject(request.transaction.error));
    request.transaction.addEventListener("error", () => reject(request.transaction.error));
  });
}
