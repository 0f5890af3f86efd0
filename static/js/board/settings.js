// What may still change while a project runs: budget, batch size, guidelines, guesses, classes, checks, stopping. Owns the form; only changed
// fields are sent.

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
    votes: numberInput({ min: 1, max: 15, value: project.votesPerTask }),
    random: percentInput(project.randomFraction, { max: 100 }),
    gold: percentInput(project.goldFraction, { max: 50 }),
    relabel: percentInput(project.relabelFraction, { max: 50 }),
    target: percentInput(project.stopping.target_accuracy, { max: 99.99, required: false }),
    plateauRounds: numberInput({ min: 1, max: 100, value: project.stopping.plateau_rounds ?? "", required: false }),
    plateauGain: percentInput(project.stopping.plateau_gain, { max: 50 }),
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
    more(words.classes, element("p", { class: "hint" }, words.classesHint), inputs.classes.element),
    more(
      words.quality,
      element(
        "div",
        { class: "field-row" },
        field("votes_per_task", words.votes, inputs.votes, words.votesHint),
        field("random_fraction", words.randomFraction, inputs.random, words.randomHint),
      ),
      element(
        "div",
        { class: "field-row" },
        field("gold_fraction", words.goldFraction, inputs.gold, words.goldHint),
        field("relabel_fraction", words.relabelFraction, inputs.relabel, words.relabelHint),
      ),
    ),
    more(
      words.stopping,
      element(
        "div",
        { class: "field-row" },
        field("stopping.target_accuracy", words.target, inputs.target, words.targetHint),
        field("stopping.plateau_rounds", words.plateauRounds, inputs.plateauRounds, words.plateauHint),
        field("stopping.plateau_gain", words.plateauGain, inputs.plateauGain),
      ),
    ),
    element("div", { class: "dialog-actions" }, element("button", { type: "submit", class: "button primary" }, words.submit)),
  );
  const dialog = openDialog({ title: words.title, body: form, wide: true });
}

function more(title, ...content) {
  return element("details", { class: "more" }, element("summary", {}, title), content);
}

/** A fraction written in per cent; `null` is empty. */
function percentInput(fraction, attributes) {
  return numberInput({ min: 0, step: "any", value: fraction === null ? "" : asPercent(fraction), ...attributes });
}

/** Without the digits that only binary fractions have. */
const asPercent = (fraction) => Number((fraction * 100).toFixed(6));

/** What a field holds, as the service takes it: a field that still shows `before` is `before`, and an empty one `null`. */
function readPercent(input, before) {
  if (input.value === "") return null;
  const shown = Number(input.value);
  return before !== null && shown === asPercent(before) ? before : shown / 100;
}

function readStopping(inputs, before) {
  const after = {
    target_accuracy: readPercent(inputs.target, before.target_accuracy),
    plateau_rounds: inputs.plateauRounds.value === "" ? null : Number(inputs.plateauRounds.value),
    plateau_gain: readPercent(inputs.plateauGain, before.plateau_gain) ?? before.plateau_gain,
  };
  const isSame = Object.entries(after).every(([name, value]) => before[name] === value);
  return isSame ? before : after;
}

function readChanges(inputs, project) {
  const wanted = {
    budget: [Number(inputs.budget.value), project.budget],
    batch_size: [Number(inputs.batchSize.value), project.batchSize],
    guidelines: [inputs.guidelines.value, project.guidelines],
    show_suggestions: [inputs.suggestions.input.checked, project.showSuggestions],
    look_ahead: [inputs.lookAhead.input.checked, project.lookAhead],
    votes_per_task: [Number(inputs.votes.value), project.votesPerTask],
    random_fraction: [readPercent(inputs.random, project.randomFraction), project.randomFraction],
    gold_fraction: [readPercent(inputs.gold, project.goldFraction), project.goldFraction],
    relabel_fraction: [readPercent(inputs.relabel, project.relabelFraction), project.relabelFraction],
    stopping: [readStopping(inputs, project.stopping), project.stopping],
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
