// Shows one image as large as it is useful. Owns the stage: scale, zoom, pan, brightness.
// Small images are drawn as crisp squares at whole multiples, with a small smooth copy beside them, since squares that large are hard to read.

import { element, replaceChildren } from "./dom.js";

/** Up to this many pixels an edge, an image counts as small. */
const SMALL_EDGE = 96;
/** A small image is shown at about this size; larger squares help nobody. */
const SMALL_SHOWN = 460;
const ZOOM_MAX = 16;
const ZOOM_STEP = 1.5;
const GLANCE_EDGE = 96;
/** Room beside the image that the small copy needs, so that it never covers pixels. */
const GLANCE_ROOM = 104;

export class Viewer {
  #stage;
  #frame = null;
  #glance;
  #zoom = 1;
  #x = 0;
  #y = 0;
  #drag = null;
  /** Fingers on the stage by pointer, and how far apart two were when they came together. */
  #fingers = new Map();
  #pinch = null;
  #brightness = 1;
  #area = { width: 0, height: 0 };

  /** `stage` is the element that the image fills. */
  constructor(stage) {
    this.#stage = stage;
    this.#glance = element("canvas", { class: "glance", width: GLANCE_EDGE, height: GLANCE_EDGE, "aria-hidden": "true" });
    new ResizeObserver(([entry]) => {
      this.#area = entry.contentRect;
      this.#place();
    }).observe(stage);
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#grab(event));
    stage.addEventListener("pointermove", (event) => this.#pull(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.#letGo(event));
    stage.addEventListener("dblclick", () => this.reset());
  }

  /** Puts a decoded image on the stage; `label` is its text alternative. */
  show(image, label) {
    this.#frame = image;
    image.alt = label;
    image.className = "shown";
    this.#zoom = 1;
    this.#x = this.#y = 0;
    replaceChildren(this.#stage, image, this.#drawGlance(image));
    this.#place();
  }

  /** Puts other content (a message) on the stage. */
  showContent(content) {
    this.#frame = null;
    replaceChildren(this.#stage, content);
  }

  /** Whether only a part of the image may be in sight. */
  get isZoomed() {
    return this.#zoom > 1;
  }

  /** Moves a zoomed image by so many pixels. */
  pan(across, down) {
    this.#x += across;
    this.#y += down;
    this.#place();
  }

  zoomIn() {
    this.#setZoom(this.#zoom * ZOOM_STEP);
  }

  zoomOut() {
    this.#setZoom(this.#zoom / ZOOM_STEP);
  }

  /** Back to the whole image at its own brightness. */
  reset() {
    this.#brightness = 1;
    this.#setZoom(1);
  }

  /** Makes the image brighter (`step` > 0) or darker; it stays so for the images that follow. */
  brighten(step) {
    this.#brightness = Math.min(3, Math.max(0.4, this.#brightness + step * 0.2));
    this.#place();
  }

  /** Zooms and keeps what lies at (x, y), seen from the middle of the stage, where it is. */
  #setZoom(zoom, x = 0, y = 0) {
    const next = Math.min(ZOOM_MAX, Math.max(1, zoom));
    const factor = next / this.#zoom;
    this.#zoom = next;
    this.#x = next === 1 ? 0 : x - (x - this.#x) * factor;
    this.#y = next === 1 ? 0 : y - (y - this.#y) * factor;
    this.#place();
  }

  #place() {
    const image = this.#frame;
    if (!image || !image.naturalWidth || !this.#area.width) return;
    const { width, height, small } = fitted(image, this.#area);
    image.classList.toggle("small", small);
    this.#glance.hidden = this.#zoom > 1 || (this.#area.width - width) / 2 < GLANCE_ROOM;
    const roomX = Math.max(0, (width * this.#zoom - this.#area.width) / 2);
    const roomY = Math.max(0, (height * this.#zoom - this.#area.height) / 2);
    this.#x = Math.min(roomX, Math.max(-roomX, this.#x));
    this.#y = Math.min(roomY, Math.max(-roomY, this.#y));
    image.style.width = `${width}px`;
    image.style.height = `${height}px`;
    image.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#zoom})`;
    image.style.filter = this.#brightness === 1 ? "" : `brightness(${this.#brightness})`;
    this.#stage.classList.toggle("zoomed", this.#zoom > 1);
  }

  #drawGlance(image) {
    if (Math.max(image.naturalWidth, image.naturalHeight) > SMALL_EDGE) return null;
    const pen = this.#glance.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.clearRect(0, 0, GLANCE_EDGE, GLANCE_EDGE);
    const scale = GLANCE_EDGE / Math.max(image.naturalWidth, image.naturalHeight);
    const width = image.naturalWidth * scale;
    const height = image.naturalHeight * scale;
    pen.drawImage(image, (GLANCE_EDGE - width) / 2, (GLANCE_EDGE - height) / 2, width, height);
    return this.#glance;
  }

  #wheel(event) {
    if (!this.#frame) return;
    event.preventDefault();
    this.#setZoom(this.#zoom * Math.exp(-event.deltaY / 400), ...this.#fromMiddle(event));
  }

  #fromMiddle({ clientX, clientY }) {
    const box = this.#stage.getBoundingClientRect();
    return [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
  }

  #grab(event) {
    if (event.pointerType === "touch") this.#fingers.set(event.pointerId, event);
    if (this.#fingers.size === 2 && this.#frame) {
      this.#drag = null;
      this.#pinch = { apart: this.#spread().apart, zoom: this.#zoom };
      return;
    }
    if (this.#zoom === 1 || event.button !== 0) return;
    this.#drag = { x: event.clientX - this.#x, y: event.clientY - this.#y };
    this.#stage.setPointerCapture(event.pointerId);
  }

  #pull(event) {
    if (this.#fingers.has(event.pointerId)) this.#fingers.set(event.pointerId, event);
    if (this.#pinch) {
      const { apart, middle } = this.#spread();
      this.#setZoom((this.#pinch.zoom * apart) / this.#pinch.apart, ...this.#fromMiddle(middle));
      return;
    }
    if (!this.#drag) return;
    this.#x = event.clientX - this.#drag.x;
    this.#y = event.clientY - this.#drag.y;
    this.#place();
  }

  #letGo(event) {
    this.#drag = null;
    this.#fingers.delete(event.pointerId);
    if (this.#fingers.size < 2) this.#pinch = null;
  }

  /** How far apart two fingers are, and the point between them. */
  #spread() {
    const [one, other] = this.#fingers.values();
    const apart = Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
    return { apart, middle: { clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2 } };
  }
}

/** The size at which an image fits the area; whole multiples for small ones, so that every pixel is the same square. */
function fitted(image, area) {
  const width = image.naturalWidth;
  const height = image.naturalHeight;
  const small = Math.max(width, height) <= SMALL_EDGE;
  const most = Math.min(area.width / width, area.height / height);
  if (!small) return { width: width * Math.min(most, 4), height: height * Math.min(most, 4), small };
  const wanted = Math.min(most, SMALL_SHOWN / Math.max(width, height));
  const scale = wanted >= 1 ? Math.floor(wanted) : wanted;
  return { width: width * scale, height: height * scale, small };
}
