// How much a page weighs and how soon it shows: bytes over the wire on a first visit, and the first contentful paint on loopback.

import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { after, before, test } from "node:test";
import { launch, service, signIn } from "./browser.mjs";

/** Scripts, styles, markup and data of a first visit; the images to label aren't the page's weight. */
const WEIGHT_BYTES = 150_000;
/** A tenth of this is usual; the bound only catches a page that waits for something it shouldn't. */
const PAINT_MS = 5000;

let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

for (const [name, path, sign] of [
  ["the list of projects", "/", ".project-card"],
  ["the labeler's page", `/label/${service.project}`, "img.shown"],
  ["the operator's page", `/projects/${service.project}`, ".figures"],
  ["the page of tokens", "/access", ".access"],
]) {
  test(`${name} weighs under 150 KB on a first visit`, async (t) => {
    const { page, context } = await signIn(browser);
    const network = await context.newCDPSession(page);
    await network.send("Network.enable");
    await network.send("Network.setCacheDisabled", { cacheDisabled: true });
    const kinds = new Map();
    const underWay = new Set();
    const arrivals = new EventEmitter();
    let bytes = 0;
    // The stream of events never ends, and is no weight of the first visit.
    network.on("Network.requestWillBeSent", ({ requestId, type }) => type !== "EventSource" && underWay.add(requestId));
    network.on("Network.responseReceived", ({ requestId, response }) => kinds.set(requestId, response.mimeType));
    network.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
      if (!(kinds.get(requestId) ?? "").startsWith("image/png")) bytes += encodedDataLength;
      underWay.delete(requestId);
      arrivals.emit("arrival");
    });
    network.on("Network.loadingFailed", ({ requestId }) => underWay.delete(requestId) && arrivals.emit("arrival"));
    await page.goto(path);
    await page.locator(sign).first().waitFor();
    while (underWay.size > 0) await once(arrivals, "arrival");
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
    t.diagnostic(`${name}: ${bytes} bytes, first contentful paint after ${Math.round(paint)} ms`);
    assert.ok(bytes > 10_000 && bytes < WEIGHT_BYTES, `${bytes} bytes`);
    assert.ok(paint < PAINT_MS, `${paint} ms`);
    await context.close();
  });
}

test("a page asks for all of its modules at once", async () => {
  const { page, context } = await signIn(browser);
  const named = new Set();
  await page.goto(`/projects/${service.project}`);
  for (const link of await page.locator('link[rel="modulepreload"]').all()) named.add(await link.getAttribute("href"));
  const loaded = await page.evaluate(() =>
    performance
      .getEntriesByType("resource")
      .map((entry) => new URL(entry.name).pathname)
      .filter((path) => path.endsWith(".js")),
  );
  const late = loaded.filter((path) => !named.has(path) && !/\/(project|theme)\.js$/.test(path));
  assert.deepEqual(late, [], "modules that the page's frame doesn't name");
  await context.close();
});
