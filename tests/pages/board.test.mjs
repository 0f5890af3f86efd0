// The projects' list and the operator's board against a running service: what they show, how they follow, what they ask before.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { api, launch, projectPath, service, signIn } from "./browser.mjs";

let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("the list of projects leads to the board and to the labeler's page", async () => {
  const { page, context, problems } = await signIn(browser);
  const card = page.locator(".project-card", { has: page.getByRole("heading", { name: service.project, exact: true }) });
  await card.getByRole("link", { name: "Open" }).click();
  await page.waitForURL(`**/projects/${service.project}`);
  await page.getByRole("heading", { level: 1, name: service.project }).waitFor();
  await page.getByRole("link", { name: "Label images" }).click();
  await page.waitForURL(`**/label/${service.project}`);
  await page.locator("img.shown").waitFor();
  assert.deepEqual(problems, []);
  await context.close();
});

test("the board shows the present state, the batch with its reasons, and follows a label live", async () => {
  const { page, context, problems } = await signIn(browser);
  await page.goto(`/projects/${service.project}`);
  await page.getByRole("img", { name: /present: Labeling/ }).waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByRole("tab", { name: "Batch" }).click();
  await page.locator(".tile img").first().waitFor();
  const inDocument = await page.locator("#part-batch .virtual-tile").count();
  const size = Number(await page.locator("#part-batch .virtual-tile").first().getAttribute("aria-setsize"));
  assert.ok(inDocument < size / 2, `${inDocument} of ${size} tiles are in the document`);
  // Further pages of the list come while one scrolls, so its end moves: at the bottom the next one is awaited.
  const end = page.locator(`#part-batch .virtual-tile[aria-posinset="${size}"]`);
  while ((await end.count()) === 0) {
    const last = await page.evaluate(() => {
      const list = document.querySelector("#part-batch .virtual");
      list.scrollTop = list.scrollHeight;
      return list.scrollHeight;
    });
    await page.waitForFunction(
      ([size, last]) => document.querySelector(`#part-batch .virtual-tile[aria-posinset="${size}"]`) || document.querySelector("#part-batch .virtual").scrollHeight > last,
      [size, last],
    );
  }
  await end.waitFor();
  await page.locator("#part-batch .virtual").evaluate((list) => (list.scrollTop = 0));
  await page.locator("button.tile").first().click();
  await page.getByRole("dialog").getByText("Pretext loss v").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("tab", { name: "Overview" }).click();

  const answered = page.locator(".rounds-answered").first();
  const before = await answered.textContent();
  const { tasks } = await api("POST", projectPath("/leases"), { count: 1, resume: true });
  const project = await api("GET", projectPath());
  const name = project.classes[3].name ?? project.classes[3];
  await api("POST", projectPath("/labels"), { labels: [{ task: tasks[0].task, class: name, attempt: tasks[0].attempt }] });
  await page.locator(".feed").getByText(`Label: ${name}`).first().waitFor({ timeout: 10_000 });
  await page.waitForFunction((old) => document.querySelector(".rounds-answered").textContent !== old, before, { timeout: 10_000 });
  assert.deepEqual(problems, []);
  await context.close();
});

test("no part of the board is wider than a phone", async () => {
  const { page, context, problems } = await signIn(browser, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await page.goto(`/projects/${service.project}`);
  await page.getByRole("img", { name: /present: / }).waitFor();
  for (const [name, sign] of [
    ["Overview", ".rounds-answered"],
    ["Batch", "#part-batch .tile"],
    ["Mistakes", "#part-model .figure-place > *"],
    ["Labelers", "#part-labelers .table, #part-labelers .nothing"],
    ["Images", "#part-import .tile"],
  ]) {
    await page.getByRole("tab", { name }).click();
    await page.locator(sign).first().waitFor();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `${name} is ${width} pixels wide`);
  }
  await page.goto("/access");
  await page.getByRole("heading", { level: 1 }).waitFor();
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 390);
  assert.deepEqual(problems, []);
  await context.close();
});

test("all images are listed, by what is known of them, and one is shown with its facts", async () => {
  const { page, context, problems } = await signIn(browser);
  await page.goto(`/projects/${service.project}#import`);
  await page.locator("#part-import button.tile").first().waitFor();
  const project = await api("GET", projectPath());
  const all = page.getByRole("group", { name: "Which images" }).getByRole("button", { name: /^All/ });
  assert.equal((await all.textContent()).replace(/\D/g, ""), String(project.pool_count + project.test_count));
  await page.getByRole("button", { name: /^Test split/ }).click();
  const tile = page.locator("#part-import button.tile", { hasText: "test/" }).first();
  await tile.click();
  const facts = page.getByRole("dialog", { name: "Image" });
  await facts.getByText("28 by 28 pixels").waitFor();
  await facts.getByText("Test", { exact: true }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: /^Unlabelled/ }).click();
  await page.locator("#part-import .tile-class", { hasText: "unlabelled" }).first().waitFor();
  assert.deepEqual(problems, []);
  await context.close();
});

test("checks and stopping rules are set in per cent and kept as fractions", async () => {
  const { page, context, problems } = await signIn(browser);
  await page.goto(`/projects/${service.project}`);
  const before = await api("GET", projectPath());
  await page.getByRole("button", { name: "Settings" }).click();
  const form = page.getByRole("dialog");
  await form.getByText("Votes and checks").click();
  await form.getByText("When to stop before the budget is spent").click();
  await form.getByLabel("Asked again, %").fill("7.5");
  await form.getByLabel("Target accuracy, %").fill("99.9");
  const sent = page.waitForRequest((request) => request.method() === "PATCH");
  await form.getByRole("button", { name: "Save" }).click();
  // What wasn't touched isn't sent, so nobody's other change is undone.
  assert.deepEqual(Object.keys((await sent).postDataJSON()).sort(), ["relabel_fraction", "stopping"]);
  await page.getByText("Saved.").waitFor();
  const after = await api("GET", projectPath());
  assert.deepEqual([after.relabel_fraction, after.stopping.target_accuracy], [0.075, 0.999]);
  await page.getByText("Once accuracy is above 99.9 %").waitFor();
  await api("PATCH", projectPath(), { relabel_fraction: before.relabel_fraction, stopping: before.stopping });
  assert.deepEqual(problems, []);
  await context.close();
});

test("pausing asks first, shows at once, and resuming goes on", async () => {
  const { page, context } = await signIn(browser);
  await page.goto(`/projects/${service.project}`);
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  assert.equal((await api("GET", projectPath())).paused, false);
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Pause" }).click();
  await page.locator(".badge.paused").first().waitFor();
  assert.equal((await api("GET", projectPath())).paused, true);
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Resume" }).click();
  await page.locator(".badge-slot .badge.labeling").waitFor();
  assert.equal((await api("GET", projectPath())).paused, false);
  await context.close();
});

test("guidelines that the operator writes stand beside the image, and bring no markup", async () => {
  const { page, context, problems } = await signIn(browser);
  await page.goto(`/projects/${service.project}`);
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByLabel("Guidelines for labelers").fill("# What counts\n\nThe **main** garment. <img src=x onerror=alert(1)>");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved.").waitFor();
  await page.goto(`/label/${service.project}`);
  await page.locator("img.shown").waitFor();
  const guidelines = page.getByRole("complementary", { name: "Guidelines" });
  await guidelines.getByText("main", { exact: true }).waitFor();
  assert.equal(await guidelines.locator("img").count(), 0);
  await page.keyboard.press("g");
  await guidelines.waitFor({ state: "hidden" });
  await page.reload();
  await page.locator("img.shown").waitFor();
  assert.equal(await guidelines.isVisible(), false, "closed guidelines stay closed");
  assert.deepEqual(problems, []);
  await context.close();
});

test("a form that the service refuses names the field", async () => {
  const { page, context } = await signIn(browser);
  await page.getByRole("button", { name: "New project" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("one-class");
  await page.getByRole("dialog").getByLabel("Classes").fill("only");
  await page.getByRole("button", { name: "Make the project" }).click();
  await page.locator('[data-field="classes"][aria-invalid]').waitFor();
  await page.getByText(/must be 2 to/).waitFor();
  await context.close();
});

test("classes get their names, colours and keys in the settings", async () => {
  const { page, context, problems } = await signIn(browser);
  await page.goto(`/projects/${service.project}`);
  await page.getByRole("button", { name: "Settings" }).click();
  const form = page.getByRole("dialog");
  await form.getByText("Classes", { exact: true }).click();
  await form.getByLabel("Key of Bag").fill("b");
  await form.getByLabel("Colour of Bag").fill("#ff00aa");
  await form.getByRole("button", { name: "Save" }).click();
  await page.getByText("Saved.").waitFor();
  const bag = (await api("GET", projectPath())).classes.find((entry) => entry.name === "Bag");
  assert.deepEqual([bag.hotkey, bag.colour], ["b", "#ff00aa"]);
  await api("PATCH", projectPath(), { classes: { show: { Bag: { hotkey: null, colour: null } } } });
  assert.deepEqual(problems, []);
  await context.close();
});

test("the board follows a round through its training to the next batch", { timeout: 600_000 }, async () => {
  const { page, context, problems } = await signIn(browser);
  page.setDefaultTimeout(300_000);
  await page.goto(`/projects/${service.project}`);
  await page.getByRole("img", { name: /present: Labeling/ }).waitFor();
  const { round } = await api("GET", projectPath());
  await answerRest(round.number);
  await page.getByRole("button", { name: `Round ${round.number + 1}` }).waitFor();
  await page.getByRole("img", { name: /present: Labeling/ }).waitFor();
  page.setDefaultTimeout(30_000);
  // A round of this size trains within a second, so only the events tell each of its states for sure.
  for (const [from, to] of [
    ["labeling", "training"],
    ["training", "scoring"],
  ]) {
    await page.locator(".feed").getByText(`Round ${round.number}: ${from} → ${to}`).waitFor();
  }
  await page.locator(".feed").getByText(/Model \d+ published/).first().waitFor();
  await page.getByRole("img", { name: /Learning curve/ }).waitFor();
  await page.locator(".models li").first().waitFor();

  await page.getByRole("button", { name: `Round ${round.number + 1}` }).click();
  await page.getByRole("tab", { name: "Batch", selected: true }).waitFor();
  await page.getByRole("img", { name: /uncertainty u of the pool and of the batch/ }).waitFor();
  await page.getByRole("img", { name: /^Map of [\d,]+ images: [\d,]+ labelled, [\d,]+ in this batch/ }).waitFor();
  await page.locator("button.tile").first().click();
  const guess = page.getByRole("dialog").locator("dl div", { has: page.getByText("Guess", { exact: true }) });
  assert.match(await guess.locator("dd").textContent(), / \d+ %/);
  await page.keyboard.press("Escape");
  await page.getByRole("tab", { name: "Mistakes" }).click();
  await page.getByRole("img", { name: /Confusion matrix of model/ }).waitFor();
  const mark = page.locator("#part-model .mark").first();
  await mark.hover();
  assert.match(await page.locator("#part-model .tip").textContent(), /recognised as/);
  assert.deepEqual(problems, []);
  await context.close();
});

/** Answers what is left of round `number` as a program would, and nothing that is asked ahead of the next. */
async function answerRest(number) {
  const project = await api("GET", projectPath());
  const names = project.classes.map((entry) => entry.name);
  for (;;) {
    const { round } = await api("GET", projectPath());
    if (round.number > number || round.state !== "labeling") return;
    const { tasks } = await api("POST", projectPath("/leases"), { count: 20, resume: true });
    const due = tasks.filter((task) => task.round === number);
    const labels = due.map((task, index) => ({ task: task.task, class: names[index % names.length], attempt: task.attempt }));
    if (labels.length > 0) await api("POST", projectPath("/labels"), { labels });
    if (tasks.length > due.length) await api("POST", projectPath("/leases/release"), {});
    // Somebody else holds the rest, or the round is about to move.
    if (labels.length === 0) await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
