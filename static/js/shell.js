// What every page has around it. Owns the top bar, the short messages (toasts), the questions (dialogs) and the page's words for errors.

import { Problem, Unreachable, call, leaveForLogin } from "./api.js";
import { element, icon, replaceChildren, svg } from "./dom.js";
import { text } from "./text.js";

const TOAST_MS = 5000;
const REOPEN_MS = 3000;
let toastRegion = null;
let dialogNumber = 0;

/**
 * Lays out the page: a bar with `middle` in it, and `main`. `me` is the answer of /me, or null on the sign-in page.
 * `beforeLeave` is awaited before the person is signed out.
 */
export function layOut({ me, title, middle = null, end = null, main, beforeLeave = async () => {} }) {
  document.title = title ? `${title} · ${text.product}` : text.product;
  toastRegion = element("div", { class: "toasts", role: "status", "aria-live": "polite" });
  const bar = element(
    "header",
    { class: "bar" },
    element("a", { class: "brand", href: "/", "aria-label": text.bar.home }, mark(), element("span", {}, text.product)),
    element("div", { class: "bar-middle" }, middle),
    element("div", { class: "bar-end" }, end, themeButton(), me && account(me, beforeLeave)),
  );
  document.body.replaceChildren(skipLink(), bar, main, toastRegion);
  main.id = "main";
  main.tabIndex = -1;
}

/** A short message; `action` is `{label, key, run}`. Gives a function that takes it away. */
export function toast(message, { tone = "plain", action = null, lasting = false } = {}) {
  const node = element("div", { class: `toast ${tone}` }, element("span", { class: "toast-text" }, message));
  const close = () => node.remove();
  if (action) node.append(actionButton(action, close));
  if (lasting) node.append(closeButton(close));
  else setTimeout(close, TOAST_MS);
  toastRegion.replaceChildren(...Array.from(toastRegion.children).slice(-2), node);
  return close;
}

/** Says what went wrong, in the service's own words where it gave some. */
export function toastProblem(error) {
  return toast(problemText(error), { tone: "bad", lasting: true });
}

/** The words for an error. */
export function problemText(error) {
  if (error instanceof Unreachable) return text.problem.unreachable;
  if (!(error instanceof Problem)) return text.problem.unexpected(error.message);
  const unsaid = error.errors.filter((field) => !error.message.includes(field.field));
  return [error.message, ...unsaid.map((field) => `${field.field}: ${field.detail}`)].join(" · ");
}

/** Asks before something that can't be taken back; gives whether the person agreed. */
export function confirm({ title, body, yes, tone = "plain" }) {
  return new Promise((resolve) => {
    const dialog = openDialog({
      title,
      body: element("p", {}, body),
      actions: (close) => [
        // Where something is lost, Enter must not do it.
        element("button", { type: "button", class: "button", autofocus: tone === "danger", on: { click: () => close("no") } }, text.dialog.cancel),
        element("button", { type: "button", class: `button primary ${tone}`, autofocus: tone !== "danger", on: { click: () => close("yes") } }, yes),
      ],
    });
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Opens a dialog; `actions` gets a function that closes it with an answer. It leaves the document when closed. */
export function openDialog({ title, body, actions = null, wide = false }) {
  const id = `dialog-${++dialogNumber}`;
  const heading = element("h2", { id }, title);
  const dialog = element("dialog", { class: wide ? "dialog wide" : "dialog", "aria-labelledby": id });
  const close = (answer = "") => dialog.close(answer);
  dialog.append(
    element(
      "div",
      { class: "dialog-head" },
      heading,
      closeButton(() => close()),
    ),
    element("div", { class: "dialog-body" }, body),
  );
  if (actions) dialog.append(element("div", { class: "dialog-actions" }, actions(close)));
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Opens a page with `open`; while the service can't be reached it says so and tries again. */
export async function openPage(open) {
  for (;;) {
    try {
      return await open();
    } catch (error) {
      showFailure(document.querySelector("main"), error);
      if (!(error instanceof Unreachable) && !(error instanceof Problem && error.isPassing)) return null;
      await new Promise((resolve) => setTimeout(resolve, REOPEN_MS));
    }
  }
}

/** Shows on the whole page that it can't be opened. */
function showFailure(main, error) {
  const back = element("a", { class: "button", href: "/" }, text.bar.home);
  replaceChildren(
    main,
    element("div", { class: "notice" }, element("h1", {}, text.problem.title), element("p", {}, problemText(error)), back),
  );
}

/** The last part of the page's address, which names the project. */
export function projectFromAddress() {
  return decodeURIComponent(location.pathname.split("/").filter(Boolean).at(-1) ?? "");
}

/** Whether this person may change projects. */
export function isOperator(me) {
  return me.role === "operator" || me.role === "admin";
}

function actionButton(action, close) {
  const run = () => {
    close();
    action.run();
  };
  const key = action.key ? element("kbd", {}, action.key) : null;
  return element("button", { type: "button", class: "toast-action", on: { click: run } }, action.label, key);
}

function closeButton(close) {
  return element("button", { type: "button", class: "icon-button", "aria-label": text.dialog.close, on: { click: close } }, icon("close"));
}

function skipLink() {
  return element("a", { class: "skip-link", href: "#main" }, text.bar.skipToContent);
}

function themeButton() {
  const change = () => dispatchEvent(new Event("gleaner:theme"));
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": text.bar.theme, title: text.bar.theme, on: { click: change } },
    icon("theme"),
  );
}

function account(me, beforeLeave) {
  const signOut = async () => {
    try {
      await beforeLeave();
      await call("DELETE", "/session", { stay: true });
      leaveForLogin();
    } catch (error) {
      toastProblem(error);
    }
  };
  return element(
    "div",
    { class: "account" },
    element("span", { class: "account-name", title: text.roles[me.role] ?? me.role }, me.name),
    element(
      "button",
      { type: "button", class: "icon-button", "aria-label": text.bar.signOut, title: text.bar.signOut, on: { click: signOut } },
      icon("leave"),
    ),
  );
}

/** Three ears of grain, one of them picked. */
function mark() {
  return svg(
    "svg",
    { class: "mark", viewBox: "0 0 24 24", "aria-hidden": "true" },
    svg("path", { class: "mark-stem", d: "M12 22V9M6 22c0-5 1-8 3-11M18 22c0-5-1-8-3-11" }),
    svg("circle", { class: "mark-ear", cx: 7.5, cy: 8, r: 2.6 }),
    svg("circle", { class: "mark-ear", cx: 16.5, cy: 8, r: 2.6 }),
    svg("circle", { class: "mark-pick", cx: 12, cy: 4.6, r: 3.1 }),
  );
}
