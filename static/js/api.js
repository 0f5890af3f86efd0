// The one place that talks to the service. Owns: the shape of a request (JSON, Idempotency-Key on every POST), errors as exceptions
// (`Problem` for an answer of the service, `Unreachable` for none), the walk through cursor lists, and the way back from the sign-in page.

import { noteServiceTime } from "./clock.js";

const BASE = "/api/v1";

/** An error answer (RFC 9457): `message` is fit to show, `errors` names fields, `status` is the HTTP status. */
export class Problem extends Error {
  constructor(status, body, retryAfterSeconds) {
    super(body?.detail || body?.title || `HTTP ${status}`);
    this.name = "Problem";
    this.status = status;
    this.title = body?.title ?? "";
    this.detail = body?.detail ?? "";
    this.type = body?.type ?? "";
    this.errorId = body?.error_id ?? "";
    this.errors = Array.isArray(body?.errors) ? body.errors : [];
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** Whether the same request may succeed later. */
  get isPassing() {
    return this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

/** No answer came: the network or the service is down. */
export class Unreachable extends Error {
  constructor(cause) {
    super("unreachable", { cause });
    this.name = "Unreachable";
  }
}

/** A fresh random key (UUID version 4); works without a secure context, where `crypto.randomUUID` is missing. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * Sends one request and gives the answer's JSON (`null` when it has none).
 * `path` is below /api/v1. `key` repeats an earlier POST; `keepalive` lets it outlive the page; `stay` keeps a 401 from leaving for the
 * sign-in page.
 */
export async function call(method, path, { body, key, keepalive = false, signal, stay = false } = {}) {
  const headers = { Accept: "application/json, application/problem+json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method === "POST") headers["Idempotency-Key"] = key ?? newKey();
  let response;
  try {
    response = await fetch(BASE + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      keepalive,
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error);
  }
  noteServiceTime(response.headers.get("Date"));
  return readAnswer(response, stay);
}

/** GET `path`. */
export const get = (path, options) => call("GET", path, options);

/** POST `body` to `path`. */
export const post = (path, body, options) => call("POST", path, { ...options, body });

/** PATCH `path` with `body`. */
export const patch = (path, body, options) => call("PATCH", path, { ...options, body });

/** The drawing (SVG text) at `path`; `null` when there is nothing to draw. */
export async function figure(path) {
  let response;
  try {
    response = await fetch(BASE + path, { credentials: "same-origin", headers: { Accept: "image/svg+xml, application/problem+json" } });
  } catch (error) {
    throw new Unreachable(error);
  }
  if (response.status === 404) return null;
  if (!response.ok) return readAnswer(response, false);
  return response.text();
}

/** One page of a cursor list: `{items, next}`; `path` may bring a query of its own. */
export async function page(path, { limit = 100, after } = {}) {
  const query = new URLSearchParams({ limit: String(limit) });
  if (after) query.set("after", after);
  const answer = await get(`${path}${path.includes("?") ? "&" : "?"}${query}`);
  return { items: answer.items ?? [], next: answer.next ?? null };
}

/** Every row of a cursor list, up to `most` rows. */
export async function pages(path, { limit = 200, most = 2000 } = {}) {
  const rows = [];
  let after;
  do {
    const part = await page(path, { limit, after });
    rows.push(...part.items);
    after = part.next;
  } while (after && rows.length < most);
  return rows;
}

/** The path of a project, below /api/v1. */
export function projectPath(project, rest = "") {
  return `/projects/${encodeURIComponent(project)}${rest}`;
}

/** The absolute path of an item's image. */
export function itemImage(item) {
  return `${BASE}/items/${encodeURIComponent(item)}/image`;
}

/** The absolute path of something that the browser fetches by itself: a download or an event stream. */
export function address(path) {
  return BASE + path;
}

/**
 * Uploads a form with progress; `onProgress` gets the sent fraction (0 to 1). `fetch` can't tell how far an upload is.
 */
export function upload(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", BASE + path);
    request.setRequestHeader("Idempotency-Key", newKey());
    request.setRequestHeader("Accept", "application/json, application/problem+json");
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.addEventListener("error", () => reject(new Unreachable()));
    request.addEventListener("load", () => {
      const body = parse(request.responseText);
      if (request.status >= 200 && request.status < 300) resolve(body);
      else reject(new Problem(request.status, body));
    });
    request.send(form);
  });
}

/** Leaves for the sign-in page, which comes back here. */
export function leaveForLogin() {
  const next = location.pathname + location.search;
  location.assign(`/login#next=${encodeURIComponent(next)}`);
}

async function readAnswer(response, stay) {
  let content;
  try {
    content = await response.text();
  } catch (error) {
    throw new Unreachable(error);
  }
  const body = parse(content);
  if (response.ok) return body;
  if (response.status === 401 && !stay) leaveForLogin();
  const retryAfter = Number(response.headers.get("Retry-After"));
  throw new Problem(response.status, body, Number.isFinite(retryAfter) && retryAfter > 0 ? retryAfter : undefined);
}

function parse(content) {
  try {
    return content ? JSON.parse(content) : null;
  } catch {
    return null;
  }
}
