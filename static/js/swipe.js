// Swipes over the stage on a touch screen. Owns how far and how straight a finger must go to mean something.

const FAR = 80;
const STRAY = 60;

/** Calls `right` or `left` when a finger swipes over `stage`; never while the image is zoomed, where a finger pans. */
export function listenForSwipes(stage, { right, left }) {
  let start = null;
  stage.addEventListener("pointerdown", (event) => {
    // A second finger makes it a pinch.
    const isFinger = event.pointerType === "touch" && event.isPrimary;
    start = isFinger && !stage.classList.contains("zoomed") ? { x: event.clientX, y: event.clientY } : null;
  });
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const across = event.clientX - start.x;
    const along = Math.abs(event.clientY - start.y);
    start = null;
    if (Math.abs(across) < FAR || along > STRAY) return;
    if (across > 0) right();
    else left();
  });
  stage.addEventListener("pointercancel", () => (start = null));
}
