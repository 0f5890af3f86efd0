// All images of a project, however many. Owns the choice which of them are listed, and the dialog that shows one.

import { itemImage } from "../api.js";
import { element } from "../dom.js";
import { count } from "../format.js";
import { PagedGrid } from "../paged_grid.js";
import { openDialog } from "../shell.js";
import { text } from "../text.js";
import { latePicture } from "../virtual_grid.js";

/** What each choice asks for. */
const QUERIES = { all: "", unlabelled: "?split=pool&labeled=false", labelled: "?split=pool&labeled=true", test: "?split=test" };

export class Items {
  #path;
  #grid;
  #choice = "all";
  #buttons;
  #counts = { all: 0, unlabelled: 0, labelled: 0, test: 0 };
  #isVisible = false;
  #shown = "";

  /** `classes` come from `dealKeys`. */
  constructor(path, classes) {
    const colours = new Map(classes.map((entry) => [entry.name, entry.colour]));
    this.#path = path;
    this.#grid = new PagedGrid({
      label: text.items.title,
      empty: text.items.empty,
      least: 104,
      extra: 44,
      shortCount: 20,
      pageCount: 500,
      make: (item) => tile(item, colours),
      keyOf: (item) => item.id,
      differs: (item, fresh) => item.class !== fresh.class,
    });
    this.#buttons = text.items.choices.map(([id, words]) =>
      element(
        "button",
        { type: "button", class: "segment", data: { id }, on: { click: () => this.#choose(id) } },
        words,
        element("span", { class: "segment-count" }),
      ),
    );
    this.choice = element("div", { class: "segments", role: "group", "aria-label": text.items.which }, this.#buttons);
    this.element = this.#grid.element;
    this.#mark();
  }

  /** Takes how many there are of each kind from `project`; what is listed changes with the number of images. */
  show(project) {
    const { poolCount, testCount, labeledCount } = project;
    this.#counts = { all: poolCount + testCount, unlabelled: poolCount - labeledCount, labelled: labeledCount, test: testCount };
    this.#mark();
    this.#draw();
  }

  /** Nothing is read while nobody looks. */
  setVisible(isVisible) {
    this.#isVisible = isVisible;
    this.#draw();
  }

  #choose(id) {
    this.#choice = id;
    this.#mark();
    this.#draw();
  }

  #mark() {
    for (const button of this.#buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.id === this.#choice));
      button.lastChild.textContent = count(this.#counts[button.dataset.id]);
    }
  }

  #draw() {
    if (!this.#isVisible) return;
    // New labels change tiles; only new images change the list.
    const shown = `${this.#choice}:${this.#counts.all}`;
    if (shown === this.#shown) {
      this.#grid.refresh();
      return;
    }
    this.#shown = shown;
    this.#grid.show(`${this.#path}/items${QUERIES[this.#choice]}`, this.#counts[this.#choice]);
  }
}

function tile(item, colours) {
  const known = item.class;
  const split = item.split === "test" && text.items.inTest;
  return element(
    "button",
    { type: "button", class: "tile", "aria-label": text.items.tile(item.name), title: item.name, on: { click: () => open(item) } },
    latePicture(itemImage(item.id)),
    element("span", { class: "tile-file" }, element("bdi", {}, item.name)),
    known
      ? element(
          "span",
          { class: "tile-class", vars: { "--class-colour": colours.get(known) ?? "var(--muted)" } },
          element("span", { class: "swatch" }),
          element("span", { class: "tile-name" }, known),
        )
      : element("span", { class: "tile-class hint" }, split || text.map.unlabelled),
  );
}

function open(item) {
  const rows = [
    [text.gallery.item, item.name],
    [text.items.class, item.class ?? text.map.unlabelled],
    [text.items.split, text.items.splits[item.split] ?? item.split],
    [text.items.size, text.items.pixels(count(item.width), count(item.height))],
    [text.items.content, item.content_hash.slice(0, 16)],
  ];
  const list = element(
    "dl",
    { class: "why" },
    rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
  const image = element("img", { class: "why-image", src: itemImage(item.id), alt: text.items.alt });
  openDialog({ title: text.items.one, body: element("div", { class: "why-body" }, image, list), wide: true });
}
