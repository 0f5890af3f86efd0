// Builds elements. Owns the one way in which pages make DOM: text always goes in as text, never as markup,
// and styles only through the CSSOM, so that the Content-Security-Policy needs no exception.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/**
 * Makes an HTML element.
 * `attributes` are set as attributes, except: `on` (event → listener), `vars` (CSS custom properties), `data` (data-*), and `props`
 * (properties such as `value`). `true` sets an empty attribute; `false`, `null` and `undefined` leave it out.
 */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Makes an SVG element; `attributes` as in `element`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

/** Replaces all children of `parent`; `null` and `false` children are left out. */
export function replaceChildren(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(isPresent));
}

/** A small line icon of the page's own set, hidden from assistive technology. */
export function icon(name) {
  const path = ICONS[name];
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, svg("path", { d: path }));
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    setAttribute(node, name, value);
  }
  node.append(...children.flat(Infinity).filter(isPresent));
  return node;
}

function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "on") {
    for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
  } else if (name === "vars") {
    for (const [property, setting] of Object.entries(value)) node.style.setProperty(property, setting);
  } else if (name === "data") {
    Object.assign(node.dataset, value);
  } else if (name === "props") {
    Object.assign(node, value);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

function isPresent(child) {
  return child !== null && child !== undefined && child !== false;
}

const ICONS = {
  undo: "M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  skip: "M5 5v14l9-7zM18 5v14",
  help: "M9 9a3 3 0 1 1 4.2 2.8c-.8.4-1.2 1-1.2 2M12 17.5v.1M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18",
  book: "M12 7c-2-1.6-5-2-8-2v13c3 0 6 .4 8 2 2-1.6 5-2 8-2V5c-3 0-6 .4-8 2zM12 7v13",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8M12 2v2M12 20v2M4 12H2M22 12h-2M5 5l1.5 1.5M17.5 17.5 19 19M5 19l1.5-1.5M17.5 6.5 19 5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  grid: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h6v6h-6z",
  close: "M6 6l12 12M18 6 6 18",
  check: "M5 12.5 10 17.5 19.5 7",
  cloud: "M7 18a4 4 0 0 1-.5-8A6 6 0 0 1 18 9.5a4.3 4.3 0 0 1-.5 8.5z",
  alert: "M12 4 2.8 20h18.4zM12 10v4M12 17v.1",
  play: "M7 5v14l11-7z",
  pause: "M8 5v14M16 5v14",
  flag: "M6 21V4h11l-2 4 2 4H6",
  retry: "M20 12a8 8 0 1 1-2.5-5.8M20 4v4h-4",
  upload: "M12 16V4M7 9l5-5 5 5M4 16v4h16v-4",
  download: "M12 4v12M7 11l5 5 5-5M4 20h16",
  edit: "M4 20l1-4L16 5l3 3L8 19zM13.5 7.5l3 3",
  leave: "M14 4h5v16h-5M10 8l-4 4 4 4M6 12h9",
  wait: "M12 7v5l3 2M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18",
  theme: "M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18M12 3v18M12 7h4.5M12 11h6M12 15h5",
  people: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7M2.5 20c0-3.6 2.9-6 6.5-6s6.5 2.4 6.5 6M16 4.5a3.5 3.5 0 0 1 0 6.5M17.5 14.4c2.4.7 4 2.8 4 5.6",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5",
  target: "M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8",
};
