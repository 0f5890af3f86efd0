// Signing in, and what axe-core finds on each page in both themes.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { AxeBuilder } from "@axe-core/playwright";
import { after, before, test } from "node:test";
import { api, launch, service, signIn } from "./browser.mjs";

let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

test("a page without a session leads to the sign-in and back", async () => {
  const context = await browser.newContext({ baseURL: service.url });
  const page = await context.newPage();
  await page.goto(`/projects/${service.project}`);
  await page.waitForURL("**/login");
  await page.getByLabel("Token").fill("gl_wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  await page.getByLabel("Token").fill(service.token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`**/projects/${service.project}`);
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL("**/login");
  await context.close();
});

test("a link's code leaves the address at once, and leads nowhere else", async () => {
  const context = await browser.newContext({ baseURL: service.url });
  const page = await context.newPage();
  await page.goto("/login#code=unknown&next=https://example.org/");
  await page.getByLabel("Token").waitFor();
  assert.equal(new URL(page.url()).hash, "");
  await page.getByLabel("Token").fill(service.token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(service.url + "/");
  await context.close();
});

test("an administrator makes a token that is shown once, and revokes it", async (t) => {
  const me = await api("GET", "/me");
  if (me.role !== "admin") return t.skip("only an administrator makes tokens");
  const { page, context, problems } = await signIn(browser);
  await page.getByRole("link", { name: "Access" }).click();
  await page.waitForURL("**/access");
  const part = page.getByRole("region", { name: "People and programs" });
  const name = `person ${Date.now()}`;
  await part.getByLabel("Name", { exact: true }).fill(name);
  await part.getByLabel("Ends", { exact: true }).selectOption("7");
  await part.getByText("Only for some projects").click();
  await part.getByLabel(service.project, { exact: true }).check();
  await part.getByRole("button", { name: "Make a token" }).click();
  const token = await part.getByLabel(`Token of ${name}`).inputValue();
  const row = part.getByRole("row").filter({ hasText: name });
  await row.getByText(service.project, { exact: true }).waitFor();
  const made = (await api("GET", "/tokens?limit=1000")).items.find((other) => other.name === name);
  assert.equal(made.projects.length, 1);
  assert.ok(Math.abs(new Date(made.expires_at) - Date.now() - 7 * 86_400_000) < 600_000, made.expires_at);

  // The person sees that project alone, no controls, and neither tokens nor who labelled what.
  const other = await signIn(browser, {}, token);
  await other.page.locator(".project-card").first().waitFor();
  assert.equal(await other.page.locator(".project-card").count(), 1);
  assert.equal(await other.page.getByRole("button", { name: "New project" }).count(), 0);
  assert.equal(await other.page.getByRole("link", { name: "Access" }).count(), 0);
  await other.page.goto("/access");
  await other.page.getByText("Your token neither hands out tokens nor makes webhooks.").waitFor();
  assert.equal(await other.page.getByRole("button", { name: "Make a webhook" }).count(), 0);
  assert.equal(await other.page.getByRole("button", { name: "Make a token" }).count(), 0);
  await other.page.goto(`/projects/${service.project}#labelers`);
  await other.page.getByRole("tab", { name: "Overview", selected: true }).waitFor();
  assert.deepEqual(await other.page.getByRole("tab").allTextContents(), ["Overview", "Mistakes"]);

  await row.getByRole("button", { name: "Revoke" }).click();
  await page
    .getByRole("dialog", { name: /^Revoke the token/ })
    .getByRole("button", { name: "Revoke" })
    .click();
  await row.waitFor({ state: "detached" });
  await page.getByLabel("Show those that have ended").check();
  await row.getByText("revoked").waitFor();
  await other.page.reload();
  await other.page.waitForURL("**/login");
  assert.deepEqual(problems, []);
  await Promise.all([context.close(), other.context.close()]);
});

test("a webhook is made, tried out, silenced and removed, and its secret is shown once", async () => {
  const received = [];
  const receiver = createServer((request, response) => {
    received.push(request.headers);
    request.resume().on("end", () => response.writeHead(204).end());
  });
  await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${receiver.address().port}/events`;
  const { page, context, problems } = await signIn(browser);
  await page.goto("/access");
  const part = page.getByRole("region", { name: "Webhooks" });
  await part.getByText("No events are sent anywhere.").waitFor();
  await part.getByLabel("Address").fill(url);
  await part.getByText("Only some kinds of events").click();
  await part.getByLabel("project.paused", { exact: true }).check();
  await part.getByRole("button", { name: "Make a webhook" }).click();
  assert.match(await part.getByLabel(`Secret of ${url}`).inputValue(), /^whsec_/);
  const hook = part.getByRole("article").filter({ hasText: url });
  await hook.getByText("Active", { exact: true }).waitFor();

  const arrival = once(receiver, "request");
  await hook.getByRole("button", { name: "Send a test" }).click();
  await hook.getByRole("button", { name: "Deliveries" }).click();
  const deliveries = page.getByRole("dialog");
  await deliveries.getByRole("rowheader", { name: "a test" }).waitFor();
  // The receiver is told before the service notes that it was.
  await arrival;
  while ((await deliveries.getByText(/taken, HTTP 204/).count()) === 0) {
    const looked = page.waitForResponse((response) => response.url().includes("/deliveries"));
    await deliveries.getByRole("button", { name: "Look again" }).click();
    await (await looked).finished();
  }
  assert.ok(received[0]["webhook-signature"].startsWith("v1,"));
  await page.keyboard.press("Escape");

  await hook.getByRole("button", { name: "Silence" }).click();
  await hook.getByText("Somebody switched it off.").waitFor();
  await hook.getByRole("button", { name: "Remove" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await part.getByText("No events are sent anywhere.").waitFor();
  assert.deepEqual((await api("GET", "/webhooks")).items, []);
  assert.deepEqual(problems, []);
  await context.close();
  await new Promise((resolve) => receiver.close(resolve));
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe-core finds no violation on any page in ${colorScheme}`, async () => {
    const { page, context } = await signIn(browser, { colorScheme, reducedMotion: "reduce" });
    await page.locator(".project-card").first().waitFor();
    await assertAccessible(page, "projects");

    await page.getByRole("button", { name: "New project" }).click();
    await assertAccessible(page, "new project");
    await page.keyboard.press("Escape");
    await page.goto("/access");
    for (const part of await page.locator("summary").all()) await part.click();
    await page.getByText("No events are sent anywhere.").waitFor();
    await page.getByLabel("Show those that have ended").check();
    await page.getByRole("row").nth(1).waitFor();
    await assertAccessible(page, "access");

    await page.goto(`/label/${service.project}`);
    await page.locator("img.shown").waitFor();
    await page.getByRole("complementary", { name: "Guidelines" }).waitFor();
    await assertAccessible(page, "label");
    await page.keyboard.press("1");
    await page.locator(".answer-toast").getByRole("button", { name: "Undo" }).waitFor();
    await assertAccessible(page, "label with an answer");
    await page.keyboard.press("u");
    await page.getByText("Took back").waitFor();
    for (const [key, name] of [
      ["?", "help"],
      ["s", "skip"],
    ]) {
      await page.keyboard.press(key);
      await page.getByRole("dialog").waitFor();
      await assertAccessible(page, name);
      await page.keyboard.press("Escape");
    }

    await page.goto(`/projects/${service.project}`);
    await page.locator(".figures").waitFor();
    await assertAccessible(page, "overview");
    for (const [tab, sign] of [
      ["Batch", "button.tile img"],
      ["Mistakes", "#part-model .figure"],
      ["Labelers", "#part-labelers .table, #part-labelers .nothing"],
      ["Images", "#part-import .tile img"],
    ]) {
      await page.getByRole("tab", { name: tab }).click();
      await page.locator(sign).first().waitFor();
      await assertAccessible(page, tab);
    }
    await page.getByRole("button", { name: "Settings" }).click();
    for (const part of await page.getByRole("dialog").locator("summary").all()) await part.click();
    await assertAccessible(page, "settings");

    await page.goto("/login");
    await page.getByLabel("Token").waitFor();
    await assertAccessible(page, "login");
    await context.close();
  });
}

async function assertAccessible(page, name) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const found = violations.map((violation) => `${name}: ${violation.id}: ${violation.nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(found, []);
}
