// Where events are sent: webhooks made, tried out, silenced and removed, and what became of each message. Owns the form, the list and the dialog of
// deliveries; a webhook's secret is shown once, here, and is kept nowhere.

import { call, page, pages, patch, post } from "../api.js";
import { element, icon, replaceChildren } from "../dom.js";
import { field, showFieldErrors, textInput, tickBoxes } from "../form.js";
import { ago, count, dayAndTime } from "../format.js";
import { confirm, openDialog, problemText, toast, toastProblem } from "../shell.js";
import { table } from "../table.js";
import { text } from "../text.js";
import { shownOnce } from "./secret.js";

const DELIVERY_COUNT = 100;

export class Webhooks {
  #projects;
  #list = element("div", { class: "hooks" });
  #made = element("div", { role: "status" });

  /** `projects` are those whose events may be sent. */
  constructor(projects) {
    this.#projects = projects;
    this.element = element("div", { class: "access-part" }, this.#makeForm(), this.#made, this.#list);
  }

  /** Reads the webhooks anew. */
  async refresh() {
    try {
      const hooks = await pages("/webhooks");
      const isEmpty = hooks.length === 0;
      replaceChildren(
        this.#list,
        isEmpty ? element("p", { class: "nothing" }, text.webhooks.empty) : hooks.reverse().map((hook) => this.#hook(hook)),
      );
    } catch (error) {
      replaceChildren(this.#list, element("p", { class: "nothing" }, problemText(error)));
    }
  }

  #makeForm() {
    const words = text.webhooks;
    const url = element("input", { type: "url", required: true, maxlength: 2000, placeholder: "https://", autocomplete: "off", spellcheck: "false" });
    const kinds = tickBoxes(Object.keys(text.events).map((kind) => [kind, kind]));
    const only = tickBoxes(this.#projects.map((project) => [project.id, project.name]));
    const submit = async (event) => {
      event.preventDefault();
      try {
        const { secret } = await post("/webhooks", { url: url.value.trim(), events: kinds.chosen(), projects: only.chosen() });
        replaceChildren(this.#made, shownOnce({ name: words.secretOf(url.value.trim()), secret, hint: words.once }));
        url.value = "";
        kinds.clear();
        only.clear();
        showFieldErrors(form, []);
        await this.refresh();
      } catch (error) {
        if (showFieldErrors(form, error.errors ?? []).length > 0 || !error.errors?.length) toastProblem(error);
      }
    };
    const more = (title, hint, boxes) =>
      element("details", { class: "more" }, element("summary", {}, title), element("p", { class: "hint" }, hint), boxes.element);
    const form = element(
      "form",
      { class: "form", on: { submit } },
      field("url", words.url, url, words.urlHint),
      more(words.kinds, words.kindsHint, kinds),
      this.#projects.length > 0 && more(text.tokens.limit, text.tokens.limitHint, only),
      element("div", { class: "row" }, element("button", { type: "submit", class: "button primary" }, icon("plus"), words.make)),
    );
    return form;
  }

  #hook(hook) {
    const words = text.webhooks;
    const facts = [
      hook.events === null ? words.allEvents : hook.events.join(", "),
      this.#reach(hook),
      hook.pending_count > 0 && words.pending(count(hook.pending_count)),
      hook.last_success_at === null ? words.neverTaken : words.taken(ago(hook.last_success_at)),
      hook.next_attempt_at && words.next(dayAndTime(hook.next_attempt_at)),
    ].filter(Boolean);
    const button = (name, run) => element("button", { type: "button", class: "button", on: { click: run } }, name);
    const path = `/webhooks/${encodeURIComponent(hook.id)}`;
    const isSilent = hook.state === "disabled";
    return element(
      "article",
      { class: "report" },
      element("h3", {}, element("code", {}, hook.url), " ", element("span", { class: `badge ${hook.state}` }, words.states[hook.state] ?? hook.state)),
      element("p", { class: "hint" }, facts.join(" · ")),
      isSilent && hook.disabled_reason && element("p", { class: "hint" }, words.reasons[hook.disabled_reason] ?? hook.disabled_reason),
      hook.last_error && hook.state !== "active" && element("p", { class: "field-problem" }, hook.last_error),
      element(
        "div",
        { class: "row" },
        button(words.test, () => this.#try(path)),
        button(words.deliveries, () => openDeliveries(hook, path)),
        button(isSilent ? words.enable : words.disable, () => this.#act(() => patch(path, { enabled: isSilent }))),
        button(words.newSecret, () => this.#replaceSecret(hook, path)),
        button(words.remove, () => this.#remove(hook, path)),
      ),
    );
  }

  #reach({ projects }) {
    if (projects === null) return text.webhooks.allProjects;
    return projects.map((id) => this.#projects.find((project) => project.id === id)?.name ?? text.tokens.gone).join(", ");
  }

  async #act(run) {
    try {
      await run();
      await this.refresh();
      return true;
    } catch (error) {
      toastProblem(error);
      return false;
    }
  }

  async #try(path) {
    if (await this.#act(() => post(`${path}/test`, {}))) toast(text.webhooks.testSent);
  }

  async #replaceSecret(hook, path) {
    const words = text.webhooks;
    if (!(await confirm({ title: words.newSecretTitle, body: words.newSecretBody, yes: words.newSecret, tone: "danger" }))) return;
    await this.#act(async () => {
      const { secret } = await post(`${path}/secret`, {});
      replaceChildren(this.#made, shownOnce({ name: words.secretOf(hook.url), secret, hint: words.once }));
    });
  }

  async #remove(hook, path) {
    const words = text.webhooks;
    if (!(await confirm({ title: words.removeTitle(hook.url), body: words.removeBody, yes: words.remove, tone: "danger" }))) return;
    await this.#act(() => call("DELETE", path));
  }
}

/** Shows what became of the latest messages, and sends one again. */
async function openDeliveries(hook, path) {
  const words = text.webhooks;
  const body = element("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": words.deliveries });
  const again = async (delivery) => {
    try {
      await post(`${path}/redeliveries`, { from: delivery.event });
      toast(words.sentAgain);
      await show();
    } catch (error) {
      toastProblem(error);
    }
  };
  const show = async () => {
    const { items } = await page(`${path}/deliveries`, { limit: DELIVERY_COUNT });
    const rows = items.map((delivery) => deliveryRow(delivery, again));
    replaceChildren(
      body,
      items.length === 0
        ? element("p", { class: "nothing" }, words.noDeliveries)
        : table(words.columns, rows),
    );
  };
  const refresh = element("button", { type: "button", class: "button", on: { click: () => show().catch(toastProblem) } }, words.lookAgain);
  openDialog({ title: words.deliveriesOf(hook.url), body: [body, element("div", { class: "row" }, refresh)], wide: true });
  await show().catch(toastProblem);
}

function deliveryRow(delivery, again) {
  const words = text.webhooks;
  const outcome = [
    words.deliveryStates[delivery.state] ?? delivery.state,
    delivery.status !== null && `HTTP ${delivery.status}`,
    delivery.duration_ms !== null && `${count(delivery.duration_ms)} ms`,
  ];
  const button = element("button", { type: "button", class: "link", on: { click: () => again(delivery) } }, words.again);
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, delivery.kind ?? words.aTest),
    element("td", { class: "number" }, delivery.event === null ? "–" : count(delivery.event)),
    element("td", {}, outcome.filter(Boolean).join(", "), delivery.error && element("span", { class: "hint cell-note" }, delivery.error)),
    element("td", { class: "number" }, count(delivery.attempt_count)),
    element("td", {}, dayAndTime(delivery.attempted_at ?? delivery.created_at)),
    element("td", { class: "number" }, delivery.event !== null && delivery.state !== "pending" && button),
  );
}
