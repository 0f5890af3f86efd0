// Writes numbers, shares, times and durations the one way that all pages share.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SOME = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const TIME = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });

/** A number of things. */
export function count(value) {
  return Number.isFinite(value) ? WHOLE.format(value) : "–";
}

/** An amount of money or cost, with at most two decimals. */
export function amount(value) {
  return Number.isFinite(value) ? SOME.format(value) : "–";
}

/** A fraction (0 to 1) in per cent. */
export function percent(value, digits = 1) {
  return Number.isFinite(value) ? `${(value * 100).toFixed(digits)} %` : "–";
}

/** A score with three significant digits. */
export function score(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1).replace("-", "−");
  return value.toPrecision(3).replace("-", "−");
}

/** A duration given in seconds: "40 s", "3 min", "1 h 5 min". */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return rest ? `${Math.floor(minutes / 60)} h ${rest} min` : `${minutes / 60} h`;
}

/** A short time given in seconds, to a tenth. */
export function seconds(value) {
  return Number.isFinite(value) ? `${value.toFixed(value < 10 ? 1 : 0)} s` : "–";
}

/** How long ago an RFC 3339 time was: "now", "3 min ago", and from a day on the day itself. */
export function ago(time, now = Date.now()) {
  const passed = (now - new Date(time).getTime()) / 1000;
  if (!Number.isFinite(passed)) return "–";
  if (passed < 60) return "now";
  return passed < 86_400 ? `${duration(passed)} ago` : dayAndTime(time);
}

/** The time of day of an RFC 3339 time. */
export function timeOfDay(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "–" : TIME.format(date);
}

/** Day and time of an RFC 3339 time. */
export function dayAndTime(time) {
  const date = new Date(time ?? NaN);
  return Number.isNaN(date.getTime()) ? "–" : DAY.format(date);
}
