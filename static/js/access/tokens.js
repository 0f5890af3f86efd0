// Who may use the service: tokens made, listed and revoked by an administrator. Owns the form, the table, and the new token's text, which is shown
// once, here, and is kept nowhere.

import { call, pages, post } from "../api.js";
import { element, icon, replaceChildren } from "../dom.js";
import { choice, field, showFieldErrors, textInput, tickBoxes } from "../form.js";
import { dayAndTime } from "../format.js";
import { confirm, problemText, toastProblem } from "../shell.js";
import { table } from "../table.js";
import { text } from "../text.js";
import { shownOnce } from "./secret.js";

const DAY_MS = 86_400_000;
const TOKEN_COUNT_MAX = 10_000;

export class Tokens {
  #me;
  #projects;
  #list = element("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": text.tokens.title });
  #made = element("div", { role: "status" });
  #ended = element("input", { type: "checkbox" });
  #tokens = [];

  /** `me` is who looks, whose own token can't be revoked here; `projects` are those that a token may be limited to. */
  constructor(me, projects) {
    this.#me = me;
    this.#projects = projects;
    this.#ended.addEventListener("change", () => this.#draw());
    this.element = element(
      "div",
      { class: "access-part" },
      this.#makeForm(),
      this.#made,
      this.#list,
      element("label", { class: "tick" }, this.#ended, element("span", {}, text.tokens.showEnded)),
    );
  }

  /** Reads the tokens anew. */
  async refresh() {
    try {
      this.#tokens = (await pages("/tokens", { most: TOKEN_COUNT_MAX })).reverse();
      this.#draw();
    } catch (error) {
      replaceChildren(this.#list, element("p", { class: "nothing" }, problemText(error)));
    }
  }

  #makeForm() {
    const words = text.tokens;
    const name = textInput({ required: true, maxlength: 100, placeholder: words.namePlaceholder });
    const role = choice(Object.entries(text.roles), "labeler");
    const ends = choice(words.ends, "never");
    const does = element("p", { class: "hint" }, words.does.labeler);
    role.addEventListener("change", () => (does.textContent = words.does[role.value]));
    const only = tickBoxes(this.#projects.map((project) => [project.id, project.name]));
    const submit = async (event) => {
      event.preventDefault();
      const request = {
        name: name.value.trim(),
        role: role.value,
        projects: only.chosen(),
        expires_at: ends.value === "never" ? null : new Date(Date.now() + Number(ends.value) * DAY_MS).toISOString(),
      };
      try {
        const { token } = await post("/tokens", request);
        replaceChildren(this.#made, shownOnce({ name: words.tokenOf(request.name), secret: token, hint: words.once(location.origin) }));
        name.value = "";
        only.clear();
        showFieldErrors(form, []);
        await this.refresh();
      } catch (error) {
        if (showFieldErrors(form, error.errors ?? []).length > 0 || !error.errors?.length) toastProblem(error);
      }
    };
    const form = element(
      "form",
      { class: "form", on: { submit } },
      element(
        "div",
        { class: "field-row" },
        field("name", words.name, name),
        field("role", words.role, role),
        field("expires_at", words.expires, ends),
      ),
      does,
      this.#projects.length > 0 &&
        element(
          "details",
          { class: "more" },
          element("summary", {}, words.limit),
          element("p", { class: "hint" }, words.limitHint),
          only.element,
        ),
      element("div", { class: "row" }, element("button", { type: "submit", class: "button primary" }, icon("plus"), words.make)),
    );
    return form;
  }

  #draw() {
    const shown = this.#tokens.filter((token) => this.#ended.checked || stateOf(token) === "valid");
    replaceChildren(
      this.#list,
      table(
        text.tokens.columns,
        shown.map((token) => this.#row(token)),
      ),
    );
  }

  #row(token) {
    const state = stateOf(token);
    const ends = token.revoked_at ?? token.expires_at;
    const revoke = element("button", { type: "button", class: "button", on: { click: () => this.#revoke(token) } }, text.tokens.revoke);
    return element(
      "tr",
      { class: state === "valid" ? "" : "ended" },
      element("th", { scope: "row" }, token.name, token.id === this.#me.id && element("span", { class: "hint" }, ` ${text.tokens.you}`)),
      element("td", {}, text.roles[token.role] ?? token.role),
      element("td", {}, this.#reach(token)),
      element("td", {}, dayAndTime(token.created_at)),
      element(
        "td",
        {},
        state === "valid" ? (ends ? dayAndTime(ends) : text.tokens.never) : `${text.tokens.states[state]} ${dayAndTime(ends)}`,
      ),
      element("td", { class: "number" }, state === "valid" && token.id !== this.#me.id && revoke),
    );
  }

  #reach(token) {
    if (token.projects === null) return text.tokens.all;
    const names = token.projects.map((id) => this.#projects.find((project) => project.id === id)?.name ?? text.tokens.gone);
    return names.join(", ") || text.tokens.none;
  }

  async #revoke(token) {
    const words = text.tokens;
    if (!(await confirm({ title: words.revokeTitle(token.name), body: words.revokeBody, yes: words.revoke, tone: "danger" }))) return;
    try {
      await call("DELETE", `/tokens/${encodeURIComponent(token.id)}`);
      await this.refresh();
    } catch (error) {
      toastProblem(error);
    }
  }
}

function stateOf(token) {
  if (token.revoked_at !== null) return "revoked";
  return token.expires_at !== null && new Date(token.expires_at).getTime() <= Date.now() ? "expired" : "valid";
}
