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
  await page.locator(".tile img").first().waitFor();
  await page.locator(".tile button").first().click();
  await page.getByRole("dialog").getByText("Pretext loss v").waitFor();
  await page.keyboard.press("Escape");

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
  await page.keyboard.press("g");
  const guidelines = page.getByRole("complementary", { name: "Guidelines" });
  await guidelines.getByText("main", { exact: true }).waitFor();
  assert.equal(await guidelines.locator("img").count(), 0);
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
