// A list of tiles of which only those in sight are in the document, so that ten thousand scroll like ten. Owns the places of tiles and which
// exist; what a tile holds is its maker's. Further pages of the list are asked for before their tiles come into sight.

import { element } from "./dom.js";

/** Scrolled faster than this (pixels a millisecond) nobody sees a picture, so none is fetched until it is slower or has come to rest. */
const FLYING = 5;
const REST_MS = 80;
/** Rows kept above and below those in sight. */
const SPARE_ROWS = 2;
/** With fewer rows than this below the sight, more of the list is wanted; whoever is asked knows whether there is more. */
const WANTED_ROWS = 6;

export class VirtualGrid {
  #make;
  #wantMore;
  #items = [];
  #total = 0;
  #tiles = new Map();
  #width = 0;
  #scheduled = false;
  #drawnAt = 0;
  #drawnTop = 0;
  #isFlying = false;
  #resting = null;
  #least;
  #extra;
  #gap;
  #list = element("ul", { class: "virtual-list" });

  /**
   * `make(item, index)` gives a tile's content, its pictures made by `latePicture`; `wantMore` is called when the end of the list comes near. A tile is at least `least` pixels
   * wide and `extra` pixels higher than wide.
   */
  constructor({ label, least, extra, gap = 10, make, wantMore }) {
    this.#make = make;
    this.#wantMore = wantMore;
    this.#least = least;
    this.#extra = extra;
    this.#gap = gap;
    this.element = element("div", { class: "virtual", tabindex: "0", role: "group", "aria-label": label }, this.#list);
    this.element.addEventListener("scroll", () => this.#schedule(), { passive: true });
    new ResizeObserver(([entry]) => {
      this.#width = entry.contentRect.width;
      this.#clear();
      this.#draw();
    }).observe(this.element);
  }

  /** How many items are known. */
  get count() {
    return this.#items.length;
  }

  /** Shows `items` of a list that has `total`, from its begin. */
  show(items, total) {
    this.#items = [...items];
    this.#total = Math.max(total, items.length);
    this.#clear();
    this.element.scrollTop = 0;
    this.#draw();
  }

  /** Adds the next `items`. */
  append(items) {
    for (const item of items) this.#items.push(item);
    this.#total = Math.max(this.#total, this.#items.length);
    this.#draw();
  }

  /** The indexes of the items in sight: from the first to before the last. */
  get sight() {
    const { columns, pitch } = this.#measure();
    const first = Math.floor(this.element.scrollTop / pitch) * columns;
    const last = Math.ceil((this.element.scrollTop + this.element.clientHeight) / pitch) * columns;
    return [Math.min(first, this.#items.length), Math.min(last, this.#items.length)];
  }

  /** Changes the items from index `first` to before `last`, as `change(item)` gives them; `null` leaves one as it is. */
  update(first, last, change) {
    for (let index = first; index < Math.min(last, this.#items.length); index++) {
      const fresh = change(this.#items[index]);
      if (fresh === null) continue;
      this.#items[index] = fresh;
      const tile = this.#tiles.get(index);
      if (!tile || tile.contains(document.activeElement)) continue;
      tile.replaceChildren(this.#make(fresh, index));
      if (!this.#isFlying) showPictures(tile);
    }
  }

  /** The first item for which `test` holds, of those that are known. */
  find(test) {
    return this.#items.find(test);
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame((now) => {
      this.#scheduled = false;
      const top = this.element.scrollTop;
      const wasFlying = this.#isFlying;
      this.#isFlying = Math.abs(top - this.#drawnTop) > FLYING * Math.max(1, now - this.#drawnAt);
      this.#drawnAt = now;
      this.#drawnTop = top;
      if (wasFlying && !this.#isFlying) showPictures(this.#list);
      this.#draw();
      clearTimeout(this.#resting);
      if (this.#isFlying) this.#resting = setTimeout(() => this.#rest(), REST_MS);
    });
  }

  #rest() {
    this.#isFlying = false;
    showPictures(this.#list);
  }

  #clear() {
    this.#tiles.clear();
    this.#list.replaceChildren();
  }

  #measure() {
    const columns = Math.max(2, Math.floor((this.#width + this.#gap) / (this.#least + this.#gap)));
    const width = (this.#width - this.#gap * (columns - 1)) / columns;
    const height = width + this.#extra;
    return { columns, width, height, pitch: height + this.#gap };
  }

  #draw() {
    if (this.#width === 0) return;
    const { columns, width, height, pitch } = this.#measure();
    const rows = Math.ceil(this.#items.length / columns);
    this.#list.style.height = `${Math.max(0, rows * pitch - this.#gap)}px`;
    const top = Math.floor(this.element.scrollTop / pitch);
    const bottom = Math.ceil((this.element.scrollTop + this.element.clientHeight) / pitch);
    const first = Math.max(0, top - SPARE_ROWS) * columns;
    const last = Math.min(this.#items.length, (bottom + SPARE_ROWS) * columns);
    for (const [index, tile] of this.#tiles) {
      // Whoever has the focus keeps it, wherever the list is scrolled to.
      if ((index >= first && index < last) || tile.contains(document.activeElement)) continue;
      tile.remove();
      this.#tiles.delete(index);
    }
    for (let index = first; index < last; index++) {
      if (this.#tiles.has(index)) continue;
      const tile = element(
        "li",
        { class: "virtual-tile", "aria-setsize": this.#total, "aria-posinset": index + 1 },
        this.#make(this.#items[index], index),
      );
      const column = index % columns;
      const row = Math.floor(index / columns);
      tile.style.width = `${width}px`;
      tile.style.height = `${height}px`;
      tile.style.translate = `${column * (width + this.#gap)}px ${row * pitch}px`;
      if (!this.#isFlying) showPictures(tile);
      this.#tiles.set(index, tile);
      this.#insert(tile, index);
    }
    if (rows - bottom < WANTED_ROWS) this.#wantMore();
  }

  /** The document's order is the list's, for whoever walks it by keyboard or hears it. */
  #insert(tile, index) {
    let next = null;
    for (const [other, node] of this.#tiles) if (other > index && (next === null || other < next.index)) next = { index: other, node };
    this.#list.insertBefore(tile, next?.node ?? null);
  }
}

/** A picture of a tile, which is fetched once somebody can see it. */
export function latePicture(source) {
  return element("img", { data: { source }, alt: "", decoding: "async" });
}

function showPictures(place) {
  for (const image of place.querySelectorAll("img[data-source]")) {
    image.src = image.dataset.source;
    delete image.dataset.source;
  }
}
