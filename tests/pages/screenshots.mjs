// Pictures of the pages for README and for whoever changes their look: `node screenshots.mjs FOLDER` against a running gleaner (the same
// variables as the tests; GLEANER_TEST_VOTES_PROJECT may name a project in which several people judge an image). Owns which states are worth a
// picture; it changes nothing but the answers it gives for them.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { launch, service, signIn } from "./browser.mjs";

const folder = process.argv[2] ?? "../../docs/images";
mkdirSync(folder, { recursive: true });

const browser = await launch();
for (const colorScheme of ["light", "dark"]) {
  const { page, context } = await signIn(browser, { colorScheme, viewport: { width: 1360, height: 860 }, reducedMotion: "reduce" });
  page.setDefaultTimeout(60_000);
  const shoot = async (name, options = {}) => {
    // What the pointer rests on looks chosen.
    await page.mouse.move(2, 2);
    await page.screenshot({ path: join(folder, `${name}-${colorScheme}.png`), ...options });
  };

  await page.locator(".project-card").first().waitFor();
  await shoot("projects");

  await page.goto(`/label/${service.project}`);
  await page.locator("img.shown").waitFor();
  for (const key of ["1", "2", "3"]) {
    const before = await page.locator("img.shown").getAttribute("src");
    await page.keyboard.press(key);
    await page.waitForFunction((old) => document.querySelector("img.shown")?.getAttribute("src") !== old, before);
  }
  await page.locator(".saving.saved").waitFor();
  await shoot("label");
  for (let index = 0; index < 3; index++) {
    await page.keyboard.press("u");
    await page.getByText("Took back").waitFor();
  }
  await page.locator(".answer-toast.gone").waitFor({ state: "attached" });
  await page.keyboard.press("?");
  await shoot("help");
  await page.keyboard.press("Escape");
  if ((await page.locator(".class-button.guessed").count()) > 0) {
    await page.keyboard.press("m");
    await page.getByRole("button", { name: "16", exact: true }).click();
    await page.locator(".grid-tile").nth(8).waitFor();
    await page.waitForFunction(() => [...document.querySelectorAll(".grid-tile img")].every((image) => image.complete));
    await shoot("grid");
  }

  await page.goto(`/projects/${service.project}`);
  await page.locator(".figure-place svg, .figure-place .nothing").first().waitFor();
  await page.locator(".feed time").first().waitFor();
  await shoot("overview", { fullPage: true });
  await page.getByRole("tab", { name: "Batch" }).click();
  await page.locator("button.tile img").first().waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".tile img")].every((image) => image.complete));
  await page.locator(".map-legend .map-key, .map.is-empty").first().waitFor();
  await shoot("batch", { fullPage: true });
  await page.getByRole("tab", { name: "Mistakes" }).click();
  await page.locator("#part-model .figure-place > *").first().waitFor();
  await shoot("mistakes", { fullPage: true });
  await page.goto(`/projects/${process.env.GLEANER_TEST_VOTES_PROJECT ?? service.project}#labelers`);
  await page.locator("#part-labelers .table").first().waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".tile img")].every((image) => image.complete));
  await shoot("labelers", { fullPage: true });
  await page.goto("/access");
  await page.getByRole("row").nth(1).waitFor();
  await shoot("access", { fullPage: true });
  await page.goto(`/projects/${service.project}`);
  await page.locator(".figures").first().waitFor();
  await page.getByRole("tab", { name: "Images" }).click();
  await page.locator("#part-import .tile img").first().waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll("#part-import .tile img")].every((image) => image.complete));
  await shoot("images", { fullPage: true });
  await context.close();

  const phone = await signIn(browser, { colorScheme, viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  await phone.page.goto(`/label/${service.project}`);
  await phone.page.locator("img.shown").waitFor();
  await phone.page.screenshot({ path: join(folder, `phone-${colorScheme}.png`) });
  await phone.context.close();
}
await browser.close();
