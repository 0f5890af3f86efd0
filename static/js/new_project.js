// The form that makes a project. Owns its fields and defaults; the service decides what is valid and its words are shown at the fields.

import { Problem, post } from "./api.js";
import { element } from "./dom.js";
import { choice, field, numberInput, showFieldErrors, textInput, tickBox } from "./form.js";
import { openDialog, problemText } from "./shell.js";
import { text } from "./text.js";

/** Opens the form; a project that was made is opened at its import. */
export function openNewProject() {
  const inputs = makeInputs();
  const problem = element("p", { class: "field-problem", role: "alert", hidden: true });
  const submit = element("button", { type: "submit", class: "button primary" }, text.newProject.submit);
  const form = element(
    "form",
    { class: "form", on: { submit: (event) => create(event, inputs, form, problem, submit) } },
    mainFields(inputs),
    moreFields(inputs),
    problem,
  );
  form.append(element("div", { class: "dialog-actions" }, submit));
  openDialog({ title: text.newProject.title, body: form, wide: true });
  inputs.name.focus();
}

function makeInputs() {
  return {
    name: nameInput(),
    classes: element("textarea", { rows: 6, required: true, spellcheck: "false", placeholder: text.newProject.classesPlaceholder }),
    size: numberInput({ min: 8, max: 512, value: 32 }),
    channels: choice(
      [
        [3, text.newProject.colour],
        [1, text.newProject.grey],
      ],
      3,
    ),
    budget: numberInput({ min: 0, step: "any", value: 1000 }),
    batchSize: numberInput({ min: 1, max: 100000, value: 100 }),
    backbone: choice(
      [
        ["small", text.newProject.small],
        ["resnet18", text.newProject.resnet18],
      ],
      "small",
    ),
    pretextEpochs: numberInput({ min: 1, max: 1000, value: 3 }),
    fineTuneEpochs: numberInput({ min: 1, max: 1000, value: 20 }),
    strategy: choice(Object.entries(text.strategies), "deep_active"),
    lambda: numberInput({ step: "any", value: 1, min: -1000, max: 1000 }),
    costPerLabel: numberInput({ min: 0, step: "any", value: 1 }),
    votes: numberInput({ min: 1, max: 15, value: 1 }),
    seed: numberInput({ min: 0, max: 9007199254740991, value: 7 }),
    suggestions: tickBox("show_suggestions", text.newProject.suggestions, true),
    lookAhead: tickBox("look_ahead", text.newProject.lookAhead, true),
  };
}

/** A name goes into addresses and files, so a space becomes a hyphen while one types; what else doesn't fit is named. */
function nameInput() {
  const input = textInput({ required: true, maxlength: 100, placeholder: text.newProject.namePlaceholder });
  input.addEventListener("input", () => {
    if (/\s/.test(input.value)) input.value = input.value.replace(/^\s+/, "").replace(/\s/g, "-");
    const fits = input.value === "" || /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(input.value);
    input.setCustomValidity(fits ? "" : text.newProject.nameHint);
  });
  return input;
}

function mainFields(inputs) {
  const words = text.newProject;
  return [
    field("name", words.name, inputs.name, words.nameHint),
    field("classes", words.classes, inputs.classes, words.classesHint),
    element(
      "div",
      { class: "field-row" },
      field("image.size", words.size, inputs.size, words.sizeHint),
      field("image.channels", words.channels, inputs.channels),
    ),
    element(
      "div",
      { class: "field-row" },
      field("budget", words.budget, inputs.budget, words.budgetHint),
      field("batch_size", words.batchSize, inputs.batchSize, words.batchSizeHint),
    ),
  ];
}

function moreFields(inputs) {
  const words = text.newProject;
  return element(
    "details",
    { class: "more" },
    element("summary", {}, words.more),
    element("div", { class: "field-row" }, field("backbone", words.backbone, inputs.backbone), field("seed", words.seed, inputs.seed)),
    element(
      "div",
      { class: "field-row" },
      field("pretext.epochs", words.pretextEpochs, inputs.pretextEpochs),
      field("fine_tune.epochs", words.fineTuneEpochs, inputs.fineTuneEpochs),
    ),
    element(
      "div",
      { class: "field-row" },
      field("strategy", words.strategy, inputs.strategy),
      field("strategy.lambda", words.lambda, inputs.lambda, words.lambdaHint),
    ),
    element(
      "div",
      { class: "field-row" },
      field("cost_per_label", words.costPerLabel, inputs.costPerLabel),
      field("votes_per_task", words.votes, inputs.votes),
    ),
    inputs.suggestions.element,
    inputs.lookAhead.element,
  );
}

async function create(event, inputs, form, problem, submit) {
  event.preventDefault();
  problem.hidden = true;
  submit.disabled = true;
  try {
    const made = await post("/projects", readForm(inputs));
    location.assign(`/projects/${encodeURIComponent(made.name)}#import`);
  } catch (error) {
    showProblem(error, form, problem);
    submit.disabled = false;
  }
}

function showProblem(error, form, problem) {
  const homeless = error instanceof Problem ? showFieldErrors(form, error.errors) : [];
  const isPlaced = error instanceof Problem && error.errors.length > 0 && homeless.length === 0;
  problem.hidden = isPlaced;
  problem.textContent = isPlaced ? "" : problemText(error);
}

function readForm(inputs) {
  const strategy = { kind: inputs.strategy.value };
  if (strategy.kind === "deep_active") strategy.lambda = Number(inputs.lambda.value);
  return {
    name: inputs.name.value.trim(),
    classes: readClasses(inputs.classes.value),
    image: { size: Number(inputs.size.value), channels: Number(inputs.channels.value) },
    backbone: inputs.backbone.value,
    pretext: { epochs: Number(inputs.pretextEpochs.value) },
    fine_tune: { epochs: Number(inputs.fineTuneEpochs.value) },
    strategy,
    batch_size: Number(inputs.batchSize.value),
    budget: Number(inputs.budget.value),
    cost_per_label: Number(inputs.costPerLabel.value),
    votes_per_task: Number(inputs.votes.value),
    look_ahead: inputs.lookAhead.input.checked,
    show_suggestions: inputs.suggestions.input.checked,
    seed: Number(inputs.seed.value),
  };
}

/** One a line; a single line may separate them by commas. */
function readClasses(source) {
  const lines = source
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.length === 1
    ? lines[0]
        .split(",")
        .map((name) => name.trim())
        .filter(Boolean)
    : lines;
}
