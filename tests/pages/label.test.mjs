// The labeler's page against a running service: keys, undo, skip, a lost network, a reload, two people at once.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { api, launch, projectPath, service, signIn } from "./browser.mjs";

let browser;
let classes;

before(async () => {
  browser = await launch();
  const project = await api("GET", projectPath());
  classes = project.classes.map((entry) => entry.name ?? entry);
});
after(() => browser?.close());

/** Sets the clock of a page forward, or back. */
function setClock(offsetMs) {
  const now = Date.now;
  Date.now = () => now() + offsetMs;
}

/** Opens the labeler's page, by a clock that is `offsetMs` off, and waits for its first image. */
async function openDesk({ offsetMs = 0, ...options } = {}, token) {
  const session = await signIn(browser, options, token);
  if (offsetMs) await session.page.addInitScript(setClock, offsetMs);
  await session.page.goto(`/label/${service.project}`);
  await session.page.locator("img.shown").waitFor();
  return session;
}

/** The item whose image is on show. */
async function shownItem(page) {
  const source = await page.locator("img.shown").getAttribute("src");
  return source.match(/items\/([^/]+)\/image/)[1];
}

/** Presses the key of the class at `index` and waits for the next image; gives the item that was answered. */
async function answer(page, index) {
  const item = await shownItem(page);
  await page.keyboard.press(String((index + 1) % 10));
  await page.waitForFunction((before) => !document.querySelector("img.shown")?.src.includes(before), item);
  await page.locator("img.shown").waitFor();
  return item;
}

async function allSaved(page) {
  await page.locator(".saving.saved").waitFor({ timeout: 20_000 });
}

/** The class of every labelled item, as the service exports it. */
async function exportedLabels() {
  const response = await fetch(`${service.url}/api/v1${projectPath("/labels?format=jsonl")}`, {
    headers: { Authorization: `Bearer ${service.token}` },
  });
  assert.equal(response.status, 200);
  const rows = (await response.text())
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  return { rows, classOf: new Map(rows.map((row) => [row.item, row.class])) };
}

async function labelOf(item) {
  return (await exportedLabels()).classOf.get(item);
}

test("one key answers and goes on, and every answer is at the service once", async () => {
  const { page, context, problems } = await openDesk();
  const before = (await exportedLabels()).rows.length;
  const given = new Map();
  for (let index = 0; index < 24; index++) given.set(await answer(page, index % classes.length), classes[index % classes.length]);
  await allSaved(page);
  const { rows, classOf } = await exportedLabels();
  assert.equal(given.size, 24, "an image was shown twice");
  assert.equal(rows.length, before + 24);
  for (const [item, name] of given) assert.equal(classOf.get(item), name);
  await page.getByText("this session").waitFor();
  assert.equal(await page.locator(".fact strong").first().textContent(), "24");
  assert.deepEqual(problems, []);
  await context.close();
});

test("undo brings the image back, and the second answer is the one that counts", async () => {
  const { page, context, problems } = await openDesk();
  const item = await answer(page, 0);
  await allSaved(page);
  await page.keyboard.press("u");
  await page.waitForFunction((wanted) => document.querySelector("img.shown")?.src.includes(wanted), item);
  assert.equal(await labelOf(item), undefined);
  await answer(page, 1);
  await allSaved(page);
  assert.equal(await labelOf(item), classes[1]);
  assert.deepEqual(problems, []);
  await context.close();
});

test("what was answered stands over the image for a while, and its button takes it back", async () => {
  const { page, context, problems } = await openDesk();
  const item = await answer(page, 4);
  const toast = page.locator(".answer-toast");
  await toast.getByText(classes[4]).waitFor();
  await toast.getByRole("button", { name: "Undo" }).click();
  await page.waitForFunction((wanted) => document.querySelector("img.shown")?.src.includes(wanted), item);
  await toast.getByText("Took back").waitFor();
  assert.equal(await labelOf(item), undefined);
  // The next key is a class again, wherever the pointer has been.
  await answer(page, 5);
  await allSaved(page);
  assert.equal(await labelOf(item), classes[5]);
  // It goes by itself, unless the pointer rests on it.
  await page.mouse.move(10, 400);
  await toast.getByRole("button", { name: "Undo" }).waitFor({ state: "detached", timeout: 15_000 });
  assert.deepEqual(problems, []);
  await context.close();
});

test("what was done today counts what other browsers did, too", async () => {
  const first = await openDesk();
  await answer(first.page, 0);
  await allSaved(first.page);
  const today = await first.page.locator(".fact strong").nth(1).textContent();
  await first.context.close();
  const second = await openDesk();
  assert.equal(await second.page.locator(".fact strong").first().textContent(), "0");
  await second.page.waitForFunction((wanted) => document.querySelectorAll(".fact strong")[1].textContent === wanted, today);
  await second.context.close();
});

test("an earlier answer can be changed", async () => {
  const { page, context, problems } = await openDesk();
  const item = await answer(page, 0);
  await answer(page, 1);
  await allSaved(page);
  await page.getByRole("button", { name: `${classes[0]}: change this answer` }).click();
  await page.getByRole("dialog").getByRole("button", { name: classes[2] }).click();
  await page.getByText(`Changed to “${classes[2]}”.`).waitFor();
  assert.equal(await labelOf(item), classes[2]);
  assert.deepEqual(problems, []);
  await context.close();
});

test("a skip takes its reason, and can be taken back before it is sent", async () => {
  const { page, context } = await openDesk();
  const first = await shownItem(page);
  await page.keyboard.press("s");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("1");
  await page.waitForFunction((before) => !document.querySelector("img.shown")?.src.includes(before), first);
  await page.keyboard.press("Backspace");
  await page.waitForFunction((wanted) => document.querySelector("img.shown")?.src.includes(wanted), first);
  const sent = page.waitForRequest((request) => request.url().endsWith("/skip"));
  await page.keyboard.press("s");
  await page.keyboard.press("1");
  const request = await sent;
  assert.deepEqual(request.postDataJSON(), { reason: "unsure" });
  assert.equal((await request.response()).status(), 200);
  assert.equal(await labelOf(first), undefined);
  await allSaved(page);
  await context.close();
});

test("answers given without a network are kept, and are sent once when it returns", async () => {
  const { page, context, problems } = await openDesk();
  const before = (await exportedLabels()).rows.length;
  await context.setOffline(true);
  const items = [];
  for (let index = 0; index < 5; index++) items.push(await answer(page, index));
  await page.getByText("Not yet saved: 5").waitFor();
  assert.equal((await exportedLabels()).rows.length, before);
  await context.setOffline(false);
  await allSaved(page);
  const { rows, classOf } = await exportedLabels();
  assert.equal(rows.length, before + 5);
  items.forEach((item, index) => assert.equal(classOf.get(item), classes[index]));
  assert.deepEqual(problems, []);
  await context.close();
});

test("answers that wait survive a reload, and a lost reply doesn't count twice", async () => {
  const { page, context } = await openDesk();
  const before = (await exportedLabels()).rows.length;
  // The service gets each label, but its reply is lost.
  await page.route("**/labels", async (route) => {
    await route.fetch();
    await route.abort("connectionreset");
  });
  const items = [];
  for (let index = 0; index < 3; index++) items.push(await answer(page, index));
  await page.getByText("Not yet saved: 3").waitFor();
  // A handler that is still at work would speak to a page that has gone.
  await page.unrouteAll({ behavior: "wait" });
  await page.reload();
  await page.locator("img.shown").waitFor();
  await allSaved(page);
  const { rows, classOf } = await exportedLabels();
  assert.equal(rows.length, before + 3);
  items.forEach((item, index) => assert.equal(classOf.get(item), classes[index]));
  await context.close();
});

test("many at once: what is marked is shown alone, the rest gets the model's guess", async (t) => {
  const { page, context, problems } = await openDesk();
  const { tasks } = await api("POST", projectPath("/leases"), { count: 20, resume: true });
  if (tasks.filter((task) => task.suggestions.length > 0).length < 9)
    return t.skip("this batch was asked before the first model, so it has no guesses");
  await page.keyboard.press("m");
  await page.locator(".grid-tile").nth(8).waitFor();
  const items = await page
    .locator(".grid-tile img")
    .evaluateAll((images) => images.map((image) => image.src.match(/items\/([^/]+)\/image/)[1]));
  const guesses = await page.locator(".grid-name").allTextContents();
  await page.keyboard.press("2");
  await page.waitForFunction(() => [...document.querySelectorAll(".grid-tile img")].every((image) => image.complete));
  await page.keyboard.press("Enter");
  await page.locator("img.shown").waitFor();
  assert.equal(await shownItem(page), items[1]);
  await allSaved(page);
  const { classOf } = await exportedLabels();
  items.forEach((item, index) => assert.equal(classOf.get(item), index === 1 ? undefined : guesses[index]));
  assert.deepEqual(problems, []);
  await context.close();
});

test("a sheet of thirty-six is walked by arrows, and undone as a sheet", async (t) => {
  const { page, context, problems } = await openDesk({ viewport: { width: 1440, height: 900 } });
  const { tasks } = await api("POST", projectPath("/leases"), { count: 20, resume: true });
  if (tasks.filter((task) => task.suggestions.length > 0).length < 16)
    return t.skip("this batch was asked before the first model, so it has no guesses");
  // Only somebody who works may hold more than twenty.
  await answer(page, 1);
  await allSaved(page);
  await page.keyboard.press("m");
  await page.getByRole("button", { name: "36", exact: true }).click();
  await page.locator(".grid-tile").nth(30).waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Space");
  assert.equal(await page.locator(".grid-tile").nth(1).getAttribute("aria-pressed"), "true");
  await page.keyboard.press("Space");
  const shown = await page.locator(".grid-tile").count();
  await page.waitForFunction(() => [...document.querySelectorAll(".grid-tile img")].every((image) => image.complete));
  await page.getByRole("button", { name: /The rest is right/ }).click();
  await page.locator(".answer-toast").getByText(`${shown} labels given`).waitFor();
  await allSaved(page);
  const before = (await exportedLabels()).rows.length;
  await page.keyboard.press("u");
  await page.getByText(`Took back ${shown} labels.`).waitFor();
  assert.equal((await exportedLabels()).rows.length, before - shown);
  await page.getByRole("button", { name: "9", exact: true }).click();
  assert.deepEqual(problems, []);
  await context.close();
});

test("a reload comes back to the same image", async () => {
  const { page, context } = await openDesk();
  await answer(page, 2);
  const item = await shownItem(page);
  await allSaved(page);
  await page.reload();
  await page.locator("img.shown").waitFor();
  assert.equal(await shownItem(page), item);
  await context.close();
});

/** Works for longer than a lease of ten seconds lasts, and finds it was kept. */
async function workLongerThanALease({ page, problems }) {
  const item = await shownItem(page);
  const held = await api("POST", projectPath("/leases"), { count: 1, resume: true });
  const { attempt } = held.tasks.find((task) => task.item === item);
  const since = Date.now();
  while (Date.now() - since < 12_000) {
    const renewed = await page.waitForResponse((response) => response.url().endsWith("/leases/renew"));
    assert.equal(renewed.status(), 200);
    await page.keyboard.press("Shift");
  }
  assert.equal(await shownItem(page), item);
  const sent = page.waitForResponse((response) => response.url().endsWith("/labels"));
  await answer(page, 0);
  assert.equal((await (await sent).json()).results[0].outcome, "accepted");
  assert.equal((await sent).request().postDataJSON().labels[0].attempt, attempt, "the lease had lapsed and was taken anew");
  assert.deepEqual(problems, []);
}

for (const [clock, offsetMs] of [
  ["right", 0],
  ["an hour fast", 3_600_000],
  ["an hour slow", -3_600_000],
]) {
  test(`leases are renewed while somebody works, longer than they last, by a clock that is ${clock}`, { timeout: 120_000 }, async () => {
    const { lease_seconds: before } = await api("GET", projectPath());
    await api("PATCH", projectPath(), { lease_seconds: 10 });
    const session = await openDesk({ offsetMs });
    try {
      await workLongerThanALease(session);
    } finally {
      await api("PATCH", projectPath(), { lease_seconds: before });
      await session.context.close();
    }
  });
}

test("an answer that waits is sent though the clock was set back meanwhile", async () => {
  const { page, context } = await openDesk();
  await page.route("**/api/**", (route) => route.abort());
  const item = await answer(page, 1);
  await page.unroute("**/api/**");
  await page.evaluate(setClock, -3_600_000);
  await allSaved(page);
  assert.equal(await labelOf(item), classes[1]);
  await context.close();
});

test("two fingers zoom, arrows move what is zoomed, and neither skips", async () => {
  const { page, context } = await openDesk({ viewport: { width: 820, height: 1100 }, hasTouch: true });
  const item = await shownItem(page);
  const scaleOf = () => page.locator("img.shown").evaluate((image) => new DOMMatrix(getComputedStyle(image).transform));
  await page.locator(".stage").evaluate((stage) => {
    const finger = (type, pointerId, clientX) =>
      stage.dispatchEvent(
        new PointerEvent(type, { pointerType: "touch", pointerId, isPrimary: pointerId === 1, clientX, clientY: 400, bubbles: true }),
      );
    finger("pointerdown", 1, 300);
    finger("pointerdown", 2, 340);
    finger("pointermove", 1, 150);
    finger("pointermove", 2, 350);
    finger("pointerup", 1, 150);
    finger("pointerup", 2, 350);
  });
  const zoomed = await scaleOf();
  assert.ok(zoomed.a > 4 && zoomed.a < 6, `scaled by ${zoomed.a}`);
  await page.keyboard.press("ArrowRight");
  assert.ok((await scaleOf()).e < zoomed.e);
  await page.keyboard.press("z");
  assert.equal((await scaleOf()).a, 1);
  assert.equal(await page.getByRole("dialog").count(), 0);
  assert.equal(await shownItem(page), item);
  await context.close();
});

test("two people never get the same image, and a labeler sees no controls", async (t) => {
  const me = await api("GET", "/me");
  if (me.role !== "admin") return t.skip("only an administrator's token can make a second one");
  const { id, token } = await api("POST", "/tokens", { role: "labeler", name: "page test" });
  const first = await openDesk();
  const second = await openDesk({}, token);
  const seen = [];
  for (let index = 0; index < 5; index++) {
    seen.push(await answer(first.page, index), await answer(second.page, index));
  }
  assert.equal(new Set(seen).size, seen.length);
  await Promise.all([allSaved(first.page), allSaved(second.page)]);
  await second.page.goto(`/projects/${service.project}`);
  await second.page.getByRole("heading", { name: service.project }).waitFor();
  assert.equal(await second.page.getByRole("button", { name: "Pause" }).count(), 0);
  assert.equal(await second.page.getByText("Bring images in").count(), 0);
  await Promise.all([first.context.close(), second.context.close()]);
  await api("DELETE", `/tokens/${id}`);
});

test("a phone shows image and classes without scrolling sideways, and a touch answers", async () => {
  const { page, context } = await openDesk({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const item = await shownItem(page);
  const button = page.locator(".class-button").first();
  const box = await button.boundingBox();
  assert.ok(box.height >= 44, `a button is ${box.height} pixels high`);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `the page is ${width} pixels wide`);
  await button.tap();
  await page.waitForFunction((before) => !document.querySelector("img.shown")?.src.includes(before), item);
  await allSaved(page);
  assert.equal(await labelOf(item), classes[0]);
  await context.close();
});

test("a swipe to the right accepts the guess, one to the left asks why it is skipped", async (t) => {
  const { page, context } = await openDesk({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const swipe = (from, to) =>
    page.locator(".stage").evaluate(
      (stage, [start, end]) => {
        const point = (type, clientX) =>
          stage.dispatchEvent(new PointerEvent(type, { pointerType: "touch", isPrimary: true, clientX, clientY: 200, bubbles: true }));
        point("pointerdown", start);
        point("pointerup", end);
      },
      [from, to],
    );
  await swipe(300, 100);
  await page.getByRole("dialog", { name: "Why skip this image?" }).waitFor();
  await page.keyboard.press("Escape");
  if ((await page.locator(".class-button.guessed").count()) === 0) {
    await context.close();
    return t.skip("this batch was asked before the first model, so it has no guesses");
  }
  const item = await shownItem(page);
  const guess = await page.locator(".class-button.guessed .class-name").textContent();
  await swipe(100, 300);
  await page.waitForFunction((before) => !document.querySelector("img.shown")?.src.includes(before), item);
  await allSaved(page);
  assert.equal(await labelOf(item), guess);
  await context.close();
});
