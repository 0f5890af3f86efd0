// Fields of forms with label, hint and problem. Owns their markup and the way from the service's field errors to the inputs.

import { element } from "./dom.js";

let fieldNumber = 0;

/** A labelled field; `name` is the service's name of it (dotted), `input` the element to label. */
export function field(name, label, input, hint = null) {
  const id = `field-${++fieldNumber}`;
  input.id = id;
  input.dataset.field = name;
  const problem = element("p", { class: "field-problem", id: `${id}-problem`, hidden: true });
  input.setAttribute("aria-describedby", hint ? `${id}-problem ${id}-hint` : `${id}-problem`);
  return element(
    "div",
    { class: "field" },
    element("label", { for: id }, label),
    input,
    hint && element("p", { class: "hint", id: `${id}-hint` }, hint),
    problem,
  );
}

/** A text input. */
export function textInput(attributes = {}) {
  return element("input", { type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
}

/** A number input. */
export function numberInput(attributes = {}) {
  return element("input", { type: "number", required: true, ...attributes });
}

/** A select of `[value, words]`. */
export function choice(options, chosen) {
  return element(
    "select",
    {},
    options.map(([value, words]) => element("option", { value, selected: String(value) === String(chosen) }, words)),
  );
}

/** A tick box with its words behind it. */
export function tickBox(name, words, isTicked) {
  const input = element("input", { type: "checkbox", props: { checked: isTicked } });
  input.dataset.field = name;
  return { input, element: element("label", { class: "tick" }, input, element("span", {}, words)) };
}

/** Tick boxes in columns, of which any number may be chosen: `options` is `[[value, words]]`. `chosen()` gives the values, `null` for none. */
export function tickBoxes(options) {
  const boxes = options.map(([value, words]) => ({ value, words, input: element("input", { type: "checkbox" }) }));
  return {
    element: element(
      "div",
      { class: "ticks" },
      boxes.map(({ words, input }) => element("label", { class: "tick" }, input, element("span", {}, words))),
    ),
    chosen: () => {
      const values = boxes.filter(({ input }) => input.checked).map(({ value }) => value);
      return values.length > 0 ? values : null;
    },
    clear: () => boxes.forEach(({ input }) => (input.checked = false)),
  };
}

/** Shows each of the service's errors `[{field, detail}]` at its input; gives those that have none. */
export function showFieldErrors(form, errors) {
  clearFieldErrors(form);
  const homeless = [];
  for (const error of errors) {
    const input = findInput(form, error.field);
    if (!input) {
      homeless.push(error);
      continue;
    }
    const place = document.getElementById(`${input.id}-problem`);
    input.setAttribute("aria-invalid", "true");
    place.textContent = error.detail;
    place.hidden = false;
    input.closest("details")?.setAttribute("open", "");
  }
  form.querySelector("[aria-invalid]")?.focus();
  return homeless;
}

function clearFieldErrors(form) {
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  for (const place of form.querySelectorAll(".field-problem")) place.hidden = true;
}

/** `classes.3` belongs to the input of `classes`. */
function findInput(form, name) {
  for (let path = name; path; path = path.includes(".") ? path.slice(0, path.lastIndexOf(".")) : "") {
    const input = form.querySelector(`[data-field="${CSS.escape(path)}"]`);
    if (input?.id) return input;
  }
  return null;
}
