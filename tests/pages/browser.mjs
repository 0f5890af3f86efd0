// Debian's Chromium for the page tests. Owns how it is started, how a page signs in, and the addresses the environment gives.

import { randomUUID } from "node:crypto";
import { chromium } from "playwright-core";

/** Where the service under test answers, a token of an operator or administrator, and a project with an open batch. */
export const service = {
  url: required("GLEANER_TEST_URL").replace(/\/$/, ""),
  token: required("GLEANER_TEST_TOKEN"),
  project: required("GLEANER_TEST_PROJECT"),
};

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Starts a browser with an empty profile. */
export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
}

/**
 * A signed-in page. `problems` collects what must not happen on any page: script errors and blocked content.
 * `options` are Playwright's (viewport, colorScheme, hasTouch).
 */
export async function signIn(browser, options = {}, token = service.token) {
  const context = await browser.newContext({ baseURL: service.url, viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy|Uncaught/.test(message.text())) problems.push(message.text());
  });
  await page.goto("/login");
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(service.url + "/");
  return { context, page, problems };
}

/** One call of the API as a program makes it. */
export function api(method, path, body, token = service.token) {
  const headers = { "Content-Type": "application/json" };
  return send(method, path, headers, body === undefined ? undefined : JSON.stringify(body), token);
}

/** Uploads images `[{name, mimeType, buffer}]` to `path`. */
export function upload(path, images) {
  const form = new FormData();
  for (const { name, mimeType, buffer } of images) form.append("file", new Blob([buffer], { type: mimeType }), name);
  return send("POST", path, {}, form, service.token);
}

async function send(method, path, headers, body, token) {
  headers.Authorization = `Bearer ${token}`;
  if (method === "POST") headers["Idempotency-Key"] = randomUUID();
  const response = await fetch(`${service.url}/api/v1${path}`, { method, headers, body });
  const content = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${content}`);
  return content ? JSON.parse(content) : null;
}

/** The path of the project under test, below /api/v1. */
export const projectPath = (rest = "") => `/projects/${encodeURIComponent(service.project)}${rest}`;

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: the page tests need a running gleaner (make test starts one)`);
  return value;
}
