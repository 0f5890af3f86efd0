// Bringing images in: upload by drag and drop, or a path that the server reads. Owns the forms and the live report of each import.

import { Problem, get, pages, post, upload } from "../api.js";
import { element, icon, replaceChildren } from "../dom.js";
import { choice, field, showFieldErrors, textInput } from "../form.js";
import { count, percent } from "../format.js";
import { problemText, toast, toastProblem } from "../shell.js";
import { text } from "../text.js";
import { progressBar } from "../waiting.js";

const LOOK_MS = 1000;
const REJECTED_SHOWN = 200;
const REPORT_COUNT = 5;

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
    // A test split without its labels evaluates nothing, so there the service knows what to do.
    const rules = () => (split.value === "test" ? { split: "test" } : { split: split.value, labels: labels.value });
    split.addEventListener("change", () => (labels.disabled = split.value === "test"));
    this.element = element(
      "div",
      { class: "imports" },
      this.#dropZone(rules),
      this.#reports,
      element(
        "details",
        { class: "more" },
        element("summary", {}, text.imports.options),
        element("p", { class: "hint" }, text.imports.optionsHint),
        element(
          "div",
          { class: "field-row" },
          field("split", text.imports.split, split),
          field("labels", text.imports.labels, labels, text.imports.labelsHint),
        ),
      ),
      this.#serverForm(rules),
    );
    this.#resume();
  }

  /** Opens the browser's choice of files. */
  choose() {
    this.element.querySelector("#import-files").click();
  }

  /** Takes the number of images that a running import expects, for its bar. */
  show(project) {
    this.#expected = project.progress?.job === "import" ? project.progress.total : null;
  }

  #dropZone(rules) {
    const input = element("input", {
      type: "file",
      multiple: true,
      class: "unseen",
      id: "import-files",
      accept: "image/*,.zip,.tar,.gz,.tgz",
    });
    const zone = element(
      "label",
      { class: "drop", for: "import-files" },
      icon("upload"),
      element("strong", {}, text.imports.drop),
      element("span", { class: "hint" }, text.imports.dropHint),
      input,
    );
    const take = (files) => (files.length > 0 ? this.#upload(files, rules()) : toast(text.imports.noFiles));
    const folder = element("input", { type: "file", class: "unseen", tabindex: "-1", "aria-hidden": "true", webkitdirectory: true });
    for (const chooser of [input, folder]) {
      chooser.addEventListener("change", () => {
        take(withoutTop(Array.from(chooser.files, (file) => ({ file, path: file.webkitRelativePath || file.name }))));
        chooser.value = "";
      });
    }
    for (const [type, isOver] of [
      ["dragover", true],
      ["dragleave", false],
      ["drop", false],
    ]) {
      zone.addEventListener(type, (event) => {
        event.preventDefault();
        zone.classList.toggle("over", isOver);
        if (type === "drop") filesOf(event.dataTransfer).then((files) => take(withoutTop(files)), toastProblem);
      });
    }
    const choose = element("button", { type: "button", class: "link", on: { click: () => folder.click() } }, text.imports.folder);
    return element("div", { class: "drop-frame" }, zone, folder, choose);
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
        const homeless =
          error instanceof Problem
            ? showFieldErrors(form, error.errors.length > 0 ? error.errors : [{ field: "source", detail: error.message }])
            : [error];
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
    const name = files.length === 1 ? files[0].path : text.imports.files(count(files.length));
    const report = this.#addReport(name);
    const form = new FormData();
    for (const [key, value] of Object.entries(rules)) form.append(key, value);
    for (const { file, path } of files) form.append("file", file, path);
    try {
      const answer = await upload(`${this.#path}/images`, form, (fraction) => {
        replaceChildren(
          report.body,
          progressBar(fraction, text.imports.uploading),
          element("p", { class: "hint" }, `${text.imports.uploading} ${percent(fraction, 0)}`),
        );
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
    for (;;) {
      let state;
      try {
        state = await get(`${this.#path}/imports/${encodeURIComponent(id)}`);
      } catch (error) {
        replaceChildren(report.body, element("p", { class: "field-problem" }, problemText(error)));
        if (error instanceof Problem && !error.isPassing) return;
      }
      if (state) replaceChildren(report.body, describe(state, this.#expected));
      if (state && isOver(state)) break;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    this.#changed();
  }

  /** Shows the newest imports that the service knows. */
  async #resume() {
    try {
      const imports = await pages(`${this.#path}/imports`);
      for (const state of imports.slice(-REPORT_COUNT)) {
        const report = this.#addReport(state.source === "upload" ? text.imports.uploaded : state.source);
        if (isOver(state)) replaceChildren(report.body, describe(state, null));
        else this.#watch(state.id, report);
      }
    } catch (error) {
      toastProblem(error);
    }
  }
}

/** The files that were dropped as `[{file, path}]`, those inside of folders with their folders. */
async function filesOf(transfer) {
  // The entries must be taken before the first wait: afterwards the browser has forgotten them.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return Array.from(transfer.files, (file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const found = [];
  // A reader gives a hundred entries at a time, and none at the end.
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
}

/**
 * A folder that holds everything is the source and names no class; hidden files, which systems leave in folders, aren't images.
 */
function withoutTop(files) {
  const seen = files.filter(({ path }) => !path.split("/").some((part) => part.startsWith(".")));
  const [top, ...rest] = (seen[0]?.path ?? "").split("/");
  const isShared = rest.length > 0 && seen.every(({ path }) => path.startsWith(`${top}/`));
  return isShared ? seen.map(({ file, path }) => ({ file, path: path.slice(top.length + 1) })) : seen;
}

function describe(state, expected) {
  const facts = [
    text.imports.added(count(state.added_count)),
    state.converted_count > 0 && text.imports.converted(count(state.converted_count)),
    state.duplicate_count > 0 && text.imports.duplicates(count(state.duplicate_count)),
    state.rejected_count > 0 && text.imports.rejected(count(state.rejected_count)),
  ].filter(Boolean);
  return element(
    "div",
    {},
    element("p", {}, element("span", { class: `badge ${state.state}` }, text.importStates[state.state]), ` ${facts.join(" · ")}`),
    !isOver(state) && progressBar(expected ? state.read_count / expected : 0, text.imports.reading, Boolean(expected)),
    state.error && element("p", { class: "field-problem" }, state.error),
    rejections(state),
  );
}

function isOver(state) {
  return state.state === "done" || state.state === "failed";
}

function rejections(state) {
  if (state.rejected.length === 0) return null;
  const rows = state.rejected.slice(0, REJECTED_SHOWN).map((row) => element("li", {}, element("code", {}, row.name), ` ${row.reason}`));
  return element(
    "details",
    { class: "more" },
    element("summary", {}, text.imports.rejectedList(count(state.rejected_count))),
    element("ul", { class: "rejected" }, rows),
  );
}
