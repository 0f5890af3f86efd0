// Bringing images in: upload by drag and drop, or a path that the server reads. Owns the forms and the live report of each import.

import { Problem, get, post, upload } from "../api.js";
import { element, icon, replaceChildren } from "../dom.js";
import { choice, field, showFieldErrors, textInput } from "../form.js";
import { count, percent } from "../format.js";
import { problemText, toastProblem } from "../shell.js";
import { text } from "../text.js";
import { progressBar } from "../waiting.js";

const LOOK_MS = 1000;
const REJECTED_SHOWN = 200;

export class Imports {
  #path;
  #changed;
  #reports = element("div", { class: "reports", "aria-live": "polite" });
  #expected = null;

  /** `changed` is called when an import has ended. */
  constructor(path, changed) {
    this.#path = path;
    this.#changed = changed;
    const split = choice(text.imports.splits, "auto");
    const labels = choice(text.imports.labelRules, "hide");
    this.element = element(
      "div",
      { class: "imports" },
      element("div", { class: "field-row" }, field("split", text.imports.split, split), field("labels", text.imports.labels, labels, text.imports.labelsHint)),
      this.#dropZone(() => ({ split: split.value, labels: labels.value })),
      this.#serverForm(() => ({ split: split.value, labels: labels.value })),
      this.#reports,
    );
    this.#resume();
  }

  /** Takes the number of images that a running import expects, for its bar. */
  show(project) {
    this.#expected = project.progress?.job === "import" ? project.progress.total : null;
  }

  #dropZone(rules) {
    const input = element("input", { type: "file", multiple: true, class: "unseen", id: "import-files", accept: "image/*,.zip,.tar,.gz,.tgz" });
    const zone = element(
      "label",
      { class: "drop", for: "import-files" },
      icon("upload"),
      element("strong", {}, text.imports.drop),
      element("span", { class: "hint" }, text.imports.dropHint),
      input,
    );
    const take = (files) => files.length > 0 && this.#upload([...files], rules());
    input.addEventListener("change", () => {
      take(input.files);
      input.value = "";
    });
    for (const [type, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
      zone.addEventListener(type, (event) => {
        event.preventDefault();
        zone.classList.toggle("over", isOver);
        if (type === "drop") take(event.dataTransfer.files);
      });
    }
    return zone;
  }

  #serverForm(rules) {
    const source = textInput({ required: true, placeholder: "/srv/images" });
    const format = choice(text.imports.formats, "auto");
    const submit = async (event) => {
      event.preventDefault();
      try {
        const { id } = await post(`${this.#path}/imports`, { source: source.value.trim(), format: format.value, ...rules() });
        showFieldErrors(form, []);
        this.#follow(id, source.value.trim());
      } catch (error) {
        const homeless = error instanceof Problem ? showFieldErrors(form, error.errors.length > 0 ? error.errors : [{ field: "source", detail: error.message }]) : [error];
        if (homeless.length > 0) toastProblem(error);
      }
    };
    const form = element(
      "form",
      { class: "form inline", on: { submit } },
      field("source", text.imports.source, source, text.imports.sourceHint),
      field("format", text.imports.format, format),
      element("button", { type: "submit", class: "button" }, text.imports.submit),
    );
    return element("details", { class: "more" }, element("summary", {}, text.imports.fromServer), form);
  }

  async #upload(files, rules) {
    const name = files.length === 1 ? files[0].name : text.imports.files(count(files.length));
    const report = this.#addReport(name);
    const form = new FormData();
    for (const [key, value] of Object.entries(rules)) form.append(key, value);
    for (const file of files) form.append("file", file, file.webkitRelativePath || file.name);
    try {
      const answer = await upload(`${this.#path}/images`, form, (fraction) => {
        replaceChildren(report.body, progressBar(fraction, text.imports.uploading), element("p", { class: "hint" }, `${text.imports.uploading} ${percent(fraction, 0)}`));
      });
      await this.#watch(answer.id, report);
    } catch (error) {
      replaceChildren(report.body, element("p", { class: "field-problem" }, problemText(error)));
    }
  }

  #follow(id, name) {
    return this.#watch(id, this.#addReport(name));
  }

  #addReport(name) {
    const body = element("div", {});
    const report = element("article", { class: "report" }, element("h3", {}, name), body);
    this.#reports.prepend(report);
    return { element: report, body };
  }

  async #watch(id, report) {
    remember(this.#path, id, report.element.firstChild.textContent);
    for (;;) {
      let state;
      try {
        state = await get(`${this.#path}/imports/${encodeURIComponent(id)}`);
      } catch (error) {
        replaceChildren(report.body, element("p", { class: "field-problem" }, problemText(error)));
        if (error instanceof Problem && !error.isPassing) return;
      }
      if (state) replaceChildren(report.body, describe(state, this.#expected));
      if (state?.state === "done" || state?.state === "failed") break;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    this.#changed();
  }

  /** Shows again what this browser imported before the page was left. */
  #resume() {
    for (const { id, name } of remembered(this.#path)) this.#follow(id, name);
  }
}

function describe(state, expected) {
  const isOver = state.state === "done" || state.state === "failed";
  const facts = [
    text.imports.added(count(state.added_count)),
    state.duplicate_count > 0 && text.imports.duplicates(count(state.duplicate_count)),
    (state.rejected_count ?? state.rejected?.length) > 0 && text.imports.rejected(count(state.rejected_count ?? state.rejected.length)),
  ].filter(Boolean);
  return element(
    "div",
    {},
    element("p", {}, element("span", { class: `badge ${state.state}` }, text.importStates[state.state]), ` ${facts.join(" · ")}`),
    !isOver && progressBar(expected ? state.read_count / expected : 0, text.imports.reading, Boolean(expected)),
    state.error && element("p", { class: "field-problem" }, state.error),
    rejections(state.rejected ?? []),
  );
}

function rejections(rejected) {
  if (rejected.length === 0) return null;
  const rows = rejected.slice(0, REJECTED_SHOWN).map((row) => element("li", {}, element("code", {}, row.name), ` ${row.reason}`));
  return element("details", { class: "more" }, element("summary", {}, text.imports.rejectedList(count(rejected.length))), element("ul", { class: "rejected" }, rows));
}

const REMEMBERED_COUNT = 5;

function remembered(path) {
  try {
    return JSON.parse(sessionStorage.getItem(`gleaner.imports.${path}`)) ?? [];
  } catch {
    return [];
  }
}

function remember(path, id, name) {
  const rows = remembered(path).filter((row) => row.id !== id);
  try {
    sessionStorage.setItem(`gleaner.imports.${path}`, JSON.stringify([...rows, { id, name }].slice(-REMEMBERED_COUNT)));
  } catch {
    // The report then lasts as long as the page.
  }
}
