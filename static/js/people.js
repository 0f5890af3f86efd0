// Who may use the service: tokens made, listed and revoked by an administrator. Owns the dialog; a token's text is shown once, here, and is
// kept nowhere.

import { call, pages, post } from "./api.js";
import { element, icon, replaceChildren } from "./dom.js";
import { choice, field, showFieldErrors, textInput } from "./form.js";
import { dayAndTime } from "./format.js";
import { confirm, openDialog, toast, toastProblem } from "./shell.js";
import { text } from "./text.js";

/** Opens the dialog; `me` is who looks, whose own token can't be revoked here. */
export function openPeople(me) {
  const list = element("ul", { class: "models" });
  const made = element("div", { role: "status" });
  const refresh = async () =>
    replaceChildren(
      list,
      (await readTokens()).map((token) => row(token, me, refresh)),
    );
  openDialog({ title: text.people.title, body: [makeForm(made, refresh), made, list], wide: true });
  refresh().catch(toastProblem);
}

async function readTokens() {
  const tokens = await pages("/tokens");
  return tokens.filter((token) => token.revoked_at === null).reverse();
}

function makeForm(made, refresh) {
  const name = textInput({ required: true, maxlength: 100 });
  const role = choice(Object.entries(text.roles), "labeler");
  const submit = async (event) => {
    event.preventDefault();
    try {
      const { token } = await post("/tokens", { name: name.value.trim(), role: role.value });
      replaceChildren(made, shown(name.value.trim(), token));
      name.value = "";
      showFieldErrors(form, []);
      await refresh();
    } catch (error) {
      if (showFieldErrors(form, error.errors ?? []).length > 0 || !error.errors?.length) toastProblem(error);
    }
  };
  const form = element(
    "form",
    { class: "form", on: { submit } },
    element("div", { class: "field-row" }, field("name", text.people.name, name), field("role", text.people.role, role)),
    element("div", { class: "row" }, element("button", { type: "submit", class: "button" }, icon("plus"), text.people.make)),
  );
  return form;
}

/** The new token's text, to be handed on. */
function shown(name, token) {
  const input = textInput({ readonly: true, value: token, "aria-label": text.people.tokenOf(name) });
  const copy = async () => {
    input.select();
    try {
      await navigator.clipboard.writeText(token);
      toast(text.people.copied);
    } catch {
      // Without a secure context the browser only lets people copy by hand; the text is selected for that.
    }
  };
  return element(
    "div",
    { class: "report" },
    element("p", {}, element("strong", {}, text.people.tokenOf(name)), " ", text.people.once),
    element(
      "div",
      { class: "token-row" },
      input,
      element("button", { type: "button", class: "button primary", on: { click: copy } }, text.people.copy),
    ),
  );
}

function row(token, me, refresh) {
  const facts = [text.roles[token.role], dayAndTime(token.created_at), token.id === me.id && text.people.you].filter(Boolean);
  const revoke = async () => {
    if (
      !(await confirm({
        title: text.people.revokeTitle(token.name),
        body: text.people.revokeBody,
        yes: text.people.revoke,
        tone: "danger",
      }))
    )
      return;
    try {
      await call("DELETE", `/tokens/${encodeURIComponent(token.id)}`);
      await refresh();
    } catch (error) {
      toastProblem(error);
    }
  };
  return element(
    "li",
    {},
    element("div", {}, element("strong", {}, token.name), element("span", { class: "hint" }, facts.join(" · "))),
    token.id !== me.id && element("button", { type: "button", class: "button", on: { click: revoke } }, text.people.revoke),
  );
}
