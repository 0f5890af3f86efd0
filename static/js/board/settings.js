// What may still change while a project runs: budget, batch size, guidelines, guesses, classes. Owns the form; only changed fields are sent.

import { Problem, patch, projectPath } from "../api.js";
import { element } from "../dom.js";
import { field, numberInput, showFieldErrors, tickBox } from "../form.js";
import { confirm, openDialog, toast, toastProblem } from "../shell.js";
import { amount } from "../format.js";
import { text } from "../text.js";
import { ClassEditor } from "./class_editor.js";

/** Opens the form for `project`; `changed` is called after the service has taken it. */
export function openSettings(project, changed) {
  const words = text.settings;
  const inputs = {
    budget: numberInput({ min: 0, step: "any", value: project.budget }),
    batchSize: numberInput({ min: 1, max: 100000, value: project.batchSize }),
    guidelines: element("textarea", { rows: 8, maxlength: 20000 }, project.guidelines),
    suggestions: tickBox("show_suggestions", text.newProject.suggestions, project.showSuggestions),
    lookAhead: tickBox("look_ahead", text.newProject.lookAhead, project.lookAhead),
    classes: new ClassEditor(project.classes),
  };
  const submit = async (event) => {
    event.preventDefault();
    const changes = readChanges(inputs, project);
    if (await save(project, changes, form)) {
      dialog.close();
      await changed();
    }
  };
  const form = element(
    "form",
    { class: "form", on: { submit } },
    element(
      "div",
      { class: "field-row" },
      field("budget", words.budget, inputs.budget, words.budgetHint(amount(project.spent))),
      field("batch_size", words.batchSize, inputs.batchSize, words.batchSizeHint),
    ),
    field("guidelines", words.guidelines, inputs.guidelines, words.guidelinesHint),
    inputs.suggestions.element,
    inputs.lookAhead.element,
    element(
      "details",
      { class: "more" },
      element("summary", {}, words.classes),
      element("p", { class: "hint" }, words.classesHint),
      inputs.classes.element,
    ),
    element("div", { class: "dialog-actions" }, element("button", { type: "submit", class: "button primary" }, words.submit)),
  );
  const dialog = openDialog({ title: words.title, body: form, wide: true });
}

function readChanges(inputs, project) {
  const wanted = {
    budget: [Number(inputs.budget.value), project.budget],
    batch_size: [Number(inputs.batchSize.value), project.batchSize],
    guidelines: [inputs.guidelines.value, project.guidelines],
    show_suggestions: [inputs.suggestions.input.checked, project.showSuggestions],
    look_ahead: [inputs.lookAhead.input.checked, project.lookAhead],
  };
  const changes = Object.fromEntries(
    Object.entries(wanted)
      .filter(([, [now, before]]) => now !== before)
      .map(([name, [now]]) => [name, now]),
  );
  const classes = inputs.classes.changes();
  return classes === null ? changes : { ...changes, classes };
}

async function save(project, changes, form) {
  if ("budget" in changes && !(await askBudget(project, changes.budget))) return false;
  try {
    if (Object.keys(changes).length > 0) await patch(projectPath(project.name), changes);
    toast(text.settings.done);
    return true;
  } catch (error) {
    const homeless = error instanceof Problem ? showFieldErrors(form, error.errors) : [error];
    if (homeless.length > 0 || !(error instanceof Problem) || error.errors.length === 0) toastProblem(error);
    return false;
  }
}

function askBudget(project, budget) {
  return confirm({
    title: text.settings.budgetTitle,
    body: text.settings.budgetBody(amount(project.budget), amount(budget)),
    yes: text.settings.budgetYes,
  });
}
