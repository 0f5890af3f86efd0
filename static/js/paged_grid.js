// A virtual grid over a cursor list of the service. Owns the walk through its pages, which are read before their tiles come into sight, and the
// second look at those in sight, when what they show may have changed.

import { page } from "./api.js";
import { element } from "./dom.js";
import { problemText } from "./shell.js";
import { VirtualGrid } from "./virtual_grid.js";

/** Answers change single tiles; they are looked up again this long after the last time at the earliest. */
const REFRESH_MS = 3000;

export class PagedGrid {
  #grid;
  #keyOf;
  #keep;
  #differs;
  #pageCount;
  #empty;
  #isShort;
  #note = element("p", { class: "hint", role: "status" });
  #path = null;
  /** What was read: after which cursor, and which indexes came of it. */
  #pages = [];
  #next = null;
  #turn = 0;
  #isLoading = false;
  #refreshedAt = 0;

  /**
   * `make`, `label`, `least` and `extra` are the grid's; `keyOf(row)` names a row; rows that `keep` refuses aren't shown; `differs(row, fresh)`
   * tells whether a tile must be made anew; `empty` stands where there is nothing; up to `shortCount` rows the list is as high as they are.
   */
  constructor({ keyOf, keep = () => true, differs, empty, shortCount, pageCount = 200, ...grid }) {
    this.#keyOf = keyOf;
    this.#keep = keep;
    this.#differs = differs;
    this.#empty = empty;
    this.#pageCount = pageCount;
    this.#isShort = () => this.#grid.count <= shortCount && this.#next === null;
    this.#grid = new VirtualGrid({ ...grid, wantMore: () => this.#load() });
    this.element = element("div", { class: "gallery-frame" }, this.#grid.element, this.#note);
  }

  /** Shows the list at `path` (below /api/v1), of which about `total` are expected, from its begin. */
  show(path, total) {
    this.#turn += 1;
    this.#path = path;
    this.#pages = [];
    this.#next = null;
    this.#isLoading = false;
    return this.#load(total);
  }

  /** Looks up what became of the rows in sight. */
  async refresh() {
    const turn = this.#turn;
    if (this.#isLoading || performance.now() - this.#refreshedAt < REFRESH_MS) return;
    this.#refreshedAt = performance.now();
    const [first, last] = this.#grid.sight;
    for (const part of this.#pages.filter((seen) => seen.first < last && seen.last > first)) {
      const answer = await this.#read(part.after);
      if (!answer || turn !== this.#turn) return;
      const fresh = new Map(answer.items.map((row) => [this.#keyOf(row), row]));
      this.#grid.update(part.first, part.last, (row) => {
        const now = fresh.get(this.#keyOf(row));
        return now && this.#differs(row, now) ? now : null;
      });
    }
  }

  /** The first known row for which `test` holds. */
  find(test) {
    return this.#grid.find(test);
  }

  async #load(total = null) {
    const isFirst = total !== null;
    if (this.#isLoading || (!isFirst && this.#next === null)) return;
    this.#isLoading = true;
    const turn = this.#turn;
    const after = this.#next;
    const part = await this.#read(after);
    if (turn !== this.#turn) return;
    this.#isLoading = false;
    if (!part) return;
    this.#next = part.next;
    const rows = part.items.filter(this.#keep);
    const first = isFirst ? 0 : this.#grid.count;
    this.#pages.push({ after, first, last: first + rows.length });
    if (isFirst) this.#grid.show(rows, total);
    else this.#grid.append(rows);
    this.#note.textContent = this.#grid.count === 0 ? this.#empty : "";
    this.element.classList.toggle("is-short", this.#isShort());
  }

  async #read(after) {
    try {
      return await page(this.#path, { limit: this.#pageCount, after });
    } catch (error) {
      this.#note.textContent = problemText(error);
      return null;
    }
  }
}
