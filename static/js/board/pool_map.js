// The pool in two dimensions on a canvas: labelled items in the colours of their classes, the rest grey, the batch ringed. Owns the drawing,
// zoom and pan, and what the point under the pointer is. Eighteen thousand points take a few milliseconds to draw, so a canvas and no SVG.

import { itemImage } from "../api.js";
import { element, replaceChildren } from "../dom.js";
import { count, percent } from "../format.js";
import { text } from "../text.js";

const MARGIN = 18;
const ZOOM_MAX = 40;
/** A pointer this near to a point means it. */
const NEAR = 12;

export class PoolMap {
  #points = [];
  #colours;
  #canvas = element("canvas", { class: "map-canvas", tabindex: "0", role: "img", "aria-label": text.map.empty });
  #tip = element("div", { class: "tip map-tip", hidden: true });
  #facts = element("p", { class: "hint" });
  #legend = element("div", { class: "map-legend" });
  #width = 0;
  #height = 0;
  #bounds = null;
  #view = { zoom: 1, x: 0, y: 0 };
  #drag = null;
  #near = null;
  #scheduled = false;
  #explain;

  /** `classes` come from `dealKeys`; `explain` gets the item that was clicked. */
  constructor(classes, explain) {
    this.#colours = new Map(classes.map((entry) => [entry.name, entry.colour]));
    this.#explain = explain;
    this.element = element(
      "div",
      { class: "map" },
      element("div", { class: "map-frame" }, this.#canvas, this.#tip),
      this.#legend,
      this.#facts,
    );
    this.#listen();
  }

  /** Shows a map as the service gives it; `null` says that there is none. */
  show(map) {
    this.element.classList.toggle("is-empty", map === null);
    if (map === null) {
      this.#points = [];
      replaceChildren(this.#legend);
      this.#canvas.setAttribute("aria-label", text.map.empty);
      this.#facts.textContent = text.map.empty;
      return;
    }
    const isNew = this.#points.length !== map.points.length || this.#points[0]?.item !== map.points[0]?.item;
    // What matters most is drawn last, on top.
    const weight = (point) => (point.in_batch ? 2 : point.class === null ? 0 : 1);
    this.#points = [...map.points].sort((a, b) => weight(a) - weight(b));
    if (isNew) {
      this.#bounds = boundsOf(this.#points);
      this.#view = { zoom: 1, x: 0, y: 0 };
    }
    this.#describe(map);
    this.#schedule();
  }

  #describe(map) {
    const labelled = map.points.filter((point) => point.class !== null);
    const batch = map.points.filter((point) => point.in_batch).length;
    const numbers = [count(map.points.length), count(labelled.length), count(batch)];
    this.#canvas.setAttribute("aria-label", text.map.alternative(...numbers));
    this.#facts.textContent = text.map.facts(...numbers, percent(map.explained[0] + map.explained[1], 0));
    const known = new Set(labelled.map((point) => point.class));
    const key = (kind, words, colour = null) =>
      element("span", { class: `map-key ${kind}`, vars: colour ? { "--class-colour": colour } : {} }, words);
    replaceChildren(
      this.#legend,
      key("unlabelled", text.map.unlabelled),
      key("asked", text.map.batch),
      Array.from(this.#colours, ([name, colour]) => known.has(name) && key("labelled", name, colour)),
    );
  }

  #listen() {
    new ResizeObserver(([entry]) => {
      this.#width = entry.contentRect.width;
      this.#height = entry.contentRect.height;
      this.#schedule();
    }).observe(this.#canvas.parentElement ?? this.#canvas);
    addEventListener("gleaner:theme", () => this.#schedule());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#schedule());
    const canvas = this.#canvas;
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerleave", () => this.#pointAt(null));
    canvas.addEventListener("pointerdown", (event) => this.#grab(event));
    canvas.addEventListener("pointerup", (event) => this.#drop(event));
    canvas.addEventListener("pointercancel", () => (this.#drag = null));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("dblclick", () => this.#zoomTo(1));
    canvas.addEventListener("keydown", (event) => this.#press(event));
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    if (this.#width === 0 || this.#points.length === 0) return;
    const ratio = devicePixelRatio || 1;
    this.#canvas.width = Math.round(this.#width * ratio);
    this.#canvas.height = Math.round(this.#height * ratio);
    const pen = this.#canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.element);
    const ink = { rest: style.getPropertyValue("--map-rest"), ring: style.getPropertyValue("--map-ring"), other: style.color };
    const size = Math.min(6, 2.2 * Math.sqrt(this.#view.zoom));
    for (const point of this.#points) {
      const [x, y] = this.#place(point);
      if (x < -size || y < -size || x > this.#width + size || y > this.#height + size) continue;
      if (point.class === null && !point.in_batch) {
        pen.fillStyle = ink.rest;
        pen.fillRect(x - size / 2, y - size / 2, size, size);
        continue;
      }
      pen.beginPath();
      pen.arc(x, y, point.in_batch ? size + 1 : size, 0, 2 * Math.PI);
      pen.fillStyle = point.class === null ? ink.rest : (this.#colours.get(point.class) ?? ink.other);
      pen.fill();
      if (!point.in_batch) continue;
      pen.lineWidth = 1.8;
      pen.strokeStyle = ink.ring;
      pen.stroke();
    }
    if (this.#near) {
      const [x, y] = this.#place(this.#near);
      pen.beginPath();
      pen.arc(x, y, size + 5, 0, 2 * Math.PI);
      pen.lineWidth = 2;
      pen.strokeStyle = ink.other;
      pen.stroke();
    }
  }

  /** Where a point lies on the canvas; one unit is as long across as down. */
  #place(point) {
    const { left, top, right, bottom } = this.#bounds;
    const scale = Math.min((this.#width - 2 * MARGIN) / (right - left || 1), (this.#height - 2 * MARGIN) / (bottom - top || 1));
    const { zoom, x, y } = this.#view;
    return [
      this.#width / 2 + (point.x - (left + right) / 2) * scale * zoom + x,
      this.#height / 2 - (point.y - (top + bottom) / 2) * scale * zoom + y,
    ];
  }

  #move(event) {
    if (this.#drag) {
      this.#view.x = this.#drag.x + event.clientX - this.#drag.startX;
      this.#view.y = this.#drag.y + event.clientY - this.#drag.startY;
      this.#drag.far ||= Math.abs(event.clientX - this.#drag.startX) + Math.abs(event.clientY - this.#drag.startY) > 4;
      this.#schedule();
      return;
    }
    this.#pointAt(this.#find(event.offsetX, event.offsetY));
  }

  #find(x, y) {
    let best = null;
    let least = NEAR * NEAR;
    for (const point of this.#points) {
      const [px, py] = this.#place(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      // Of points as near, the one on top.
      if (distance <= least) [best, least] = [point, distance];
    }
    return best;
  }

  #pointAt(point) {
    if (point === this.#near) return;
    this.#near = point;
    this.#tip.hidden = point === null;
    this.#schedule();
    if (point === null) return;
    const [x, y] = this.#place(point);
    const words = point.class ?? text.map.unlabelled;
    replaceChildren(
      this.#tip,
      element("img", { src: itemImage(point.item), alt: "", decoding: "async" }),
      element("span", {}, words),
      point.in_batch && element("span", { class: "hint" }, text.map.batch),
    );
    const across = Math.min(Math.max(x, 70), this.#width - 70);
    this.#tip.classList.toggle("below", y < 150);
    this.#tip.style.translate = `${across}px ${y}px`;
  }

  #grab(event) {
    if (event.button !== 0) return;
    this.#drag = { x: this.#view.x, y: this.#view.y, startX: event.clientX, startY: event.clientY, far: false };
    this.#canvas.setPointerCapture(event.pointerId);
  }

  #drop(event) {
    const wasClick = this.#drag && !this.#drag.far;
    this.#drag = null;
    const point = wasClick ? this.#find(event.offsetX, event.offsetY) : null;
    if (point) this.#explain(point.item);
  }

  #wheel(event) {
    // A page must scroll past the map; with a modifier, or once zoomed in, the wheel is the map's.
    if (!event.ctrlKey && !event.metaKey && this.#view.zoom === 1) return;
    event.preventDefault();
    this.#zoomTo(this.#view.zoom * Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
  }

  /** Zooms and keeps what lies under (x, y) there. */
  #zoomTo(zoom, x = this.#width / 2, y = this.#height / 2) {
    const next = Math.min(ZOOM_MAX, Math.max(1, zoom));
    const factor = next / this.#view.zoom;
    const across = x - this.#width / 2;
    const down = y - this.#height / 2;
    this.#view =
      next === 1
        ? { zoom: 1, x: 0, y: 0 }
        : { zoom: next, x: across - (across - this.#view.x) * factor, y: down - (down - this.#view.y) * factor };
    this.#schedule();
  }

  #press(event) {
    const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (steps[event.key] && this.#view.zoom > 1) {
      this.#view.x += steps[event.key][0];
      this.#view.y += steps[event.key][1];
      this.#schedule();
    } else if (event.key === "+" || event.key === "=") this.#zoomTo(this.#view.zoom * 1.5);
    else if (event.key === "-") this.#zoomTo(this.#view.zoom / 1.5);
    else return;
    event.preventDefault();
  }
}

function boundsOf(points) {
  const bounds = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (const { x, y } of points) {
    bounds.left = Math.min(bounds.left, x);
    bounds.right = Math.max(bounds.right, x);
    bounds.top = Math.min(bounds.top, y);
    bounds.bottom = Math.max(bounds.bottom, y);
  }
  return bounds;
}
