// A hundred answers in a row by keyboard, over the border of a batch: no wait is seen, and each key shows the next image at once.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { api, launch, service, signIn } from "./browser.mjs";
import { measurePaints, quantile, readPaints } from "./painting.mjs";

/** A project of its own, small enough to train between two keys: `make test` makes it beside the other. */
const PROJECT = process.env.GLEANER_TEST_PACE_PROJECT;
const ANSWERS = 100;
/** Somebody quick; faster than this and nobody looks at the images. */
const PAUSE_MS = 250;
/** The aim is 50 ms, which docs/results holds; a machine that compiles meanwhile must not fail the test. */
const PAINT_MS = 300;

let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("a hundred answers over the border of a batch show no wait", async (t) => {
  if (!PROJECT) return t.skip("GLEANER_TEST_PACE_PROJECT names no project");
  const path = (rest = "") => `/projects/${PROJECT}${rest}`;
  await answerRound(path, 1);
  const { page, context, problems } = await signIn(browser);
  await measurePaints(context);
  await page.goto(`/label/${PROJECT}`);
  await page.locator("img.shown").waitFor();
  const { round } = await api("GET", path());
  const seen = new Set();
  let longest = 0;
  for (let index = 0; index < ANSWERS; index++) {
    const source = await page.locator("img.shown").getAttribute("src");
    const item = source.match(/items\/([^/]+)\/image/)[1];
    assert.ok(!seen.has(item), "an image was shown twice");
    seen.add(item);
    const started = Date.now();
    await page.keyboard.press(String((index % 10) + 1).slice(-1));
    await page.waitForFunction((before) => !document.querySelector("img.shown")?.src.includes(before), item);
    assert.equal(await page.locator(".wait-card").count(), 0, `the page waits after ${index + 1} answers`);
    longest = Math.max(longest, Date.now() - started);
    // A person's pace is what is tested, and nothing tells when a person has looked long enough.
    await page.waitForTimeout(Math.max(0, PAUSE_MS - (Date.now() - started)));
  }
  await page.locator(".saving.saved").waitFor({ timeout: 20_000 });
  const after = await api("GET", path());
  assert.ok(after.round.number > round.number || after.state !== "labeling", "the border of a batch was not crossed");
  const paints = await readPaints(page);
  const p95 = quantile(paints, 0.95);
  t.diagnostic(`key to paint over ${paints.length} answers: median ${quantile(paints, 0.5).toFixed(1)} ms, 95 % under ${p95.toFixed(1)} ms; longest step, the border of the batch among them: ${longest} ms`);
  assert.ok(paints.length >= ANSWERS - 1 && p95 < PAINT_MS, `${paints.length} paints, 95 % under ${p95} ms`);
  assert.deepEqual(problems, []);
  await context.close();
});

/** Answers the rest of a round as a program would, and waits until the next one opens. */
async function answerRound(path, number) {
  const project = await api("GET", path());
  const names = project.classes.map((entry) => entry.name);
  for (let turn = 0; turn < 600; turn++) {
    const now = await api("GET", path());
    if (now.round?.number > number && now.state === "labeling") return;
    const { tasks } = await api("POST", path("/leases"), { count: 20, resume: true });
    const due = tasks.filter((task) => task.round === number);
    const labels = due.map((task, index) => ({ task: task.task, class: names[index % names.length], attempt: task.attempt }));
    if (labels.length > 0) await api("POST", path("/labels"), { labels });
    if (tasks.length > due.length) await api("POST", path("/leases/release"), {});
    if (labels.length === 0) await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`round ${number} of ${service.url} didn't end`);
}
