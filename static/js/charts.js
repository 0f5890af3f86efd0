// Draws figures as SVG elements. Owns scales, axes and marks; colours come from the style sheet's classes.
// Every figure has a text alternative, and its numbers also stand in a table or in the marks' titles.

import { element, svg } from "./dom.js";
import { count, percent } from "./format.js";
import { text } from "./text.js";

/** Drawing units are pixels at the usual width of a panel; a phone gets a smaller drawing, so that its words stay readable. */
const WIDE = { width: 640, height: 300 };
const NARROW = { width: 340, height: 240 };
const MARGIN = { top: 16, right: 20, bottom: 46, left: 58 };

/**
 * The learning curve: accuracy against labels, with its interval as a band and the random slice as a second line.
 * `curve` is what `readCurve` gives.
 */
export function curveChart(curve) {
  const all = [...curve.points, ...curve.random];
  if (all.length === 0) return element("p", { class: "nothing" }, text.curve.empty);
  const size = matchMedia("(max-width: 760px)").matches ? NARROW : WIDE;
  const x = scale([0, Math.max(...all.map((point) => point.labels))], [MARGIN.left, size.width - MARGIN.right]);
  const low = Math.min(...all.map((point) => point.low ?? point.accuracy));
  const high = Math.max(...all.map((point) => point.high ?? point.accuracy));
  const y = scale(paddedShares(low, high), [size.height - MARGIN.bottom, MARGIN.top]);
  const last = curve.points.at(-1) ?? all.at(-1);
  const drawing = svg(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${size.width} ${size.height}`,
      role: "img",
      "aria-label": text.curve.alternative(count(last.labels), percent(last.accuracy)),
    },
    axes(x, y, size.height),
    band(curve.points, x, y),
    curve.random.length > 0 && line(curve.random, x, y, "random"),
    line(curve.points, x, y, "model"),
    curve.points.map((point) => dot(point, x, y)),
  );
  return curve.random.length > 0 ? element("div", {}, drawing, legend(curve)) : drawing;
}

/** Horizontal bars `[{name, count, colour}]`, one a class, longest = full width. */
export function barList(rows, label) {
  const most = Math.max(1, ...rows.map((row) => row.count));
  return element(
    "ul",
    { class: "bars", "aria-label": label },
    rows.map((row) =>
      element(
        "li",
        { vars: { "--fraction": String(row.count / most), "--class-colour": row.colour } },
        element("span", { class: "bars-name" }, row.name),
        element("span", { class: "bars-track", "aria-hidden": "true" }, element("span", { class: "bars-fill" })),
        element("span", { class: "bars-count" }, count(row.count)),
      ),
    ),
  );
}

/** A linear scale from a domain to a range, with `ticks` at round values. */
function scale([from, to], [start, end]) {
  const span = to - from || 1;
  const place = (value) => start + ((value - from) / span) * (end - start);
  place.ticks = roundTicks(from, to);
  place.range = [start, end];
  return place;
}

/** About five round values from `from` to `to`. */
function roundTicks(from, to) {
  const span = to - from || 1;
  const rough = span / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

/** A domain of shares that holds low and high with room, in steps of five per cent. */
function paddedShares(low, high) {
  const from = Math.max(0, Math.floor((low - 0.02) * 20) / 20);
  const to = Math.min(1, Math.ceil((high + 0.02) * 20) / 20);
  return to > from ? [from, to] : [Math.max(0, from - 0.05), to];
}

function legend(curve) {
  return element(
    "p",
    { class: "legend" },
    curve.points.length > 0 && element("span", { class: "model" }, text.curve.model),
    element("span", { class: "random" }, text.curve.random),
  );
}

function axes(x, y, height) {
  const [left, right] = x.range;
  const [bottom, top] = y.range;
  return svg(
    "g",
    { class: "axes", "aria-hidden": "true" },
    y.ticks.map((tick) => [
      svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 10, y: y(tick) + 4, "text-anchor": "end" }, percent(tick, 0)),
    ]),
    x.ticks.map((tick) => [
      svg("line", { class: "tick", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 }),
      svg("text", { x: x(tick), y: bottom + 20, "text-anchor": "middle" }, count(tick)),
    ]),
    svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { class: "axis-title", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, text.curve.labels),
    svg(
      "text",
      { class: "axis-title", transform: `translate(14 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      text.curve.accuracy,
    ),
  );
}

function band(points, x, y) {
  const known = points.filter((point) => Number.isFinite(point.low) && Number.isFinite(point.high));
  if (known.length < 2) return null;
  const upper = known.map((point) => `${x(point.labels)},${y(point.high)}`);
  const lower = known.map((point) => `${x(point.labels)},${y(point.low)}`).reverse();
  return svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") });
}

function line(points, x, y, kind) {
  return svg("polyline", { class: `line ${kind}`, points: points.map((point) => `${x(point.labels)},${y(point.accuracy)}`).join(" ") });
}

function dot(point, x, y) {
  const interval =
    Number.isFinite(point.low) && Number.isFinite(point.high) ? text.curve.interval(percent(point.low), percent(point.high)) : null;
  const words = [text.curve.point(count(point.labels), percent(point.accuracy)), interval].filter(Boolean).join(" ");
  const half = interval && svg("line", { class: "whisker", x1: x(point.labels), x2: x(point.labels), y1: y(point.low), y2: y(point.high) });
  return svg("g", { class: "point" }, half, svg("circle", { cx: x(point.labels), cy: y(point.accuracy), r: 4.5 }, svg("title", {}, words)));
}
