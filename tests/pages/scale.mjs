// How smooth the board stays over a large project: `node scale.mjs` with GLEANER_TEST_PROJECT made large by scale.sql. Owns the measuring: the
// times between frames while lists are scrolled, what of them the page's own work took (which a busy machine changes less), and how long the
// service takes for a page of a list.

import { api, launch, projectPath, service, signIn } from "./browser.mjs";
import { quantile } from "./painting.mjs";

/** Pixels a frame: at sixty frames a second a fast turn of the wheel, and a fling. */
const SPEEDS = { wheel: 60, fling: 400 };
const FRAMES = 400;

const browser = await launch();
const { page, context } = await signIn(browser, { viewport: { width: 1360, height: 860 } });
page.setDefaultTimeout(120_000);
const inspector = await context.newCDPSession(page);
await inspector.send("Performance.enable");

await page.goto(`/projects/${service.project}#batch`);
await page.locator(".tile img").first().waitFor();
for (const [speed, step] of Object.entries(SPEEDS)) await tell(`batch, ${speed}`, () => scroll("#part-batch .virtual", step, FRAMES));
await tell("batch, to its end", () => scroll("#part-batch .virtual", 1200, 2000, true));

await page.goto(`/projects/${service.project}#import`);
await page.locator("#part-import .tile img").first().waitFor();
for (const [speed, step] of Object.entries(SPEEDS)) await tell(`images, ${speed}`, () => scroll("#part-import .virtual", step, FRAMES));
await tell("images, far down", () => scroll("#part-import .virtual", 1200, 1500));

await time("the project", () => api("GET", projectPath()));
const first = await time("the first page of images", () => api("GET", projectPath("/items?limit=500")));
await time("the next page", () => api("GET", projectPath(`/items?limit=500&after=${first.next}`)));
let far = first.next;
for (let turn = 0; turn < 20; turn++) far = (await api("GET", projectPath(`/items?limit=1000&after=${far}`))).next;
await time("a page twenty thousand images on", () => api("GET", projectPath(`/items?limit=500&after=${far}`)));
await time("a page of unlabelled images", () => api("GET", projectPath("/items?limit=500&split=pool&labeled=false")));
await time("a page of labelled images", () => api("GET", projectPath("/items?limit=500&split=pool&labeled=true")));
await time("a page of tasks", () => api("GET", projectPath("/rounds/1/tasks?limit=200")));
await time("the rounds", () => api("GET", projectPath("/rounds")));
await time("ten leases", () => api("POST", projectPath("/leases"), { count: 10 }));
await context.close();
await browser.close();

/** Scrolls a list by `step` a frame; gives the times between frames, where it came to, and how often the list's loaded end was met. */
function scroll(selector, step, frameCount, untilEnd = false) {
  return page.evaluate(
    ([place, pixels, most, stopsAtEnd]) =>
      new Promise((resolve) => {
        const list = document.querySelector(place);
        list.scrollTop = 0;
        const times = [];
        let last = null;
        let atEnd = 0;
        const tick = (now) => {
          if (last !== null) times.push(now - last);
          last = now;
          const before = list.scrollTop;
          list.scrollTop += pixels;
          atEnd = list.scrollTop === before ? atEnd + 1 : 0;
          if (times.length < most && !(stopsAtEnd && atEnd > 60)) return requestAnimationFrame(tick);
          const tiles = [...list.querySelectorAll(".virtual-tile")];
          resolve({ times, tileCount: tiles.length, reached: Math.max(...tiles.map((tile) => tile.ariaPosInSet)), height: list.scrollHeight });
        };
        requestAnimationFrame(tick);
      }),
    [selector, step, frameCount, untilEnd],
  );
}

async function tell(name, run) {
  const before = await metrics();
  const { times, tileCount, reached, height } = await run();
  const after = await metrics();
  const own = (kind) => (((after[kind] - before[kind]) * 1000) / times.length).toFixed(1);
  const sorted = times.toSorted((a, b) => a - b);
  const ms = (share) => quantile(sorted, share).toFixed(1);
  const late = sorted.filter((frame) => frame > 50).length;
  console.log(
    `${name}: ${times.length} frames, median ${ms(0.5)} ms, 95 % under ${ms(0.95)} ms, longest ${sorted.at(-1).toFixed(0)} ms, ${late} over 50 ms; ` +
      `of a frame script ${own("ScriptDuration")}, style and layout ${own("LayoutDuration")} + ${own("RecalcStyleDuration")} ms; ` +
      `came to entry ${reached}, ${tileCount} tiles in the document, ${height} pixels, ${Math.round(after.JSHeapUsedSize / 1e6)} MB`,
  );
}

async function metrics() {
  const { metrics: rows } = await inspector.send("Performance.getMetrics");
  return Object.fromEntries(rows.map(({ name, value }) => [name, value]));
}

async function time(name, call) {
  const times = [];
  let answer;
  for (let turn = 0; turn < 5; turn++) {
    const started = performance.now();
    answer = await call();
    times.push(performance.now() - started);
  }
  times.sort((a, b) => a - b);
  console.log(`${name}: median ${times[2].toFixed(1)} ms, longest ${times[4].toFixed(1)} ms`);
  return answer;
}
