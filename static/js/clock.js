// Time for what must not depend on how this machine's clock is set. Owns: a clock that only goes forward, and the service's time as its answers tell it.
// A person's machine may be hours off, be set right in the middle of work, or sleep; leases are the service's and last as long as it says.

let steady = 0;
let wallAt = Date.now();
let tickedAt = performance.now();
/** The service's clock less the steady one. */
let lead = null;

/** Milliseconds that never run backwards; they go on while the machine sleeps, which only the wall's clock sees. */
export function steadyNow() {
  const [wall, ticked] = [Date.now(), performance.now()];
  steady += Math.max(0, ticked - tickedAt, wall - wallAt);
  [wallAt, tickedAt] = [wall, ticked];
  return steady;
}

/** Notes the time of an answer (its `Date`). */
export function noteServiceTime(date) {
  const time = Date.parse(date ?? "");
  if (Number.isFinite(time)) lead = time - steadyNow();
}

/** Milliseconds from now to `time` (RFC 3339) by the service's clock; by this machine's before any answer came. */
export function millisecondsUntil(time) {
  const now = lead === null ? Date.now() : steadyNow() + lead;
  return new Date(time).getTime() - now;
}
