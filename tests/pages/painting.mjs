// How long a key takes until its image is on the screen. Owns the measuring inside the page: from the key's own time stamp to the first moment
// after the frame that shows the next image.

/** Installs the measure; it must run before the page's scripts, so it belongs to the context. */
export function measurePaints(context) {
  return context.addInitScript(() => {
    window.paints = [];
    let pressed = null;
    addEventListener("keydown", (event) => (pressed = event.timeStamp), { capture: true });
    new MutationObserver(() => {
      if (pressed === null || !document.querySelector("img.shown")) return;
      const from = pressed;
      pressed = null;
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.paints.push(performance.now() - from);
      // A message that is sent before a frame is painted is heard after it.
      requestAnimationFrame(() => channel.port2.postMessage(null));
    }).observe(document, { childList: true, subtree: true });
  });
}

/** The times so far in milliseconds, sorted. */
export async function readPaints(page) {
  const times = await page.evaluate(() => window.paints);
  return times.sort((a, b) => a - b);
}

/** The `share`-quantile of sorted times. */
export const quantile = (times, share) => times[Math.min(times.length - 1, Math.floor(times.length * share))];
