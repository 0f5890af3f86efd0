// A newcomer on an empty server: from "new project" to the first label, by what the pages themselves offer. Runs before the server has any
// project, so it stands apart from the other tests.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { api, launch, service, signIn } from "../browser.mjs";
import { images } from "../fashion.mjs";

const NAME = "first-steps";
let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("an empty server leads from a new project to the first label", async () => {
  const { page, context, problems } = await signIn(browser);
  page.setDefaultTimeout(120_000);
  await page.getByRole("heading", { name: "From a pile of images to a trained model" }).waitFor();
  await page.locator(".welcome").getByRole("button", { name: "New project" }).click();
  const form = page.getByRole("dialog");
  await form.getByLabel("Name").fill(NAME);
  await form.getByLabel("Classes").fill("top\nshoe\nbag");
  await form.getByLabel("Image size in pixels").fill("28");
  await form.getByLabel("Colour").selectOption("1");
  await form.getByRole("button", { name: "Make the project" }).click();

  await page.waitForURL(`**/projects/${NAME}*`);
  await page.getByRole("tab", { name: "Images", selected: true }).waitFor();
  await page.locator("#import-files").setInputFiles(images(48));
  await page.locator(".report").getByText("48 added").waitFor();
  const next = page.getByRole("region", { name: "What to do next" });
  await next.getByRole("button", { name: "Start" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Start" }).click();
  await page.getByRole("tab", { name: "Overview", selected: true }).waitFor();
  await page.getByRole("img", { name: /present: Labeling/ }).waitFor();

  await next.getByRole("link", { name: "Label the first batch" }).click();
  await page.locator("img.shown").waitFor();
  await page.keyboard.press("1");
  await page.locator(".answer-toast").getByText("top").waitFor();
  await page.locator(".saving.saved").waitFor();
  const project = await api("GET", `/projects/${NAME}`);
  assert.equal(project.labeled_count, 1);
  assert.deepEqual(problems, []);
  // The other tests meet a server with the projects that they expect.
  await api("DELETE", `/projects/${NAME}?confirm=${NAME}`);
  assert.equal((await api("GET", "/projects")).items.length, 0, `${service.url} was not empty`);
  await context.close();
});
