// The classes in a project's settings: names, colours, keys. Owns the rows and what of them changed; the service carries changes out in one go
// (rename, add, show) or refuses all.

import { element, icon } from "../dom.js";
import { textInput } from "../form.js";
import { dealKeys } from "../hotkeys.js";
import { text } from "../text.js";

export class ClassEditor {
  #rows;
  #list = element("ol", { class: "class-rows" });

  /** `classes` are the project's, with `colour` and `hotkey` null where pages choose. */
  constructor(classes) {
    const dealt = dealKeys(classes);
    this.#rows = classes.map((entry, index) => this.#makeRow(entry, dealt[index]));
    const add = element(
      "button",
      { type: "button", class: "button", on: { click: () => this.#add() } },
      icon("plus"),
      text.settings.addClass,
    );
    // The list scrolls by itself, so that the form's button stays near however many classes there are.
    this.element = element("div", { class: "class-editor", "data-field": "classes" }, this.#list, add);
  }

  /** The changes as PATCH takes them, or `null` when there are none. */
  changes() {
    const rename = {};
    const show = {};
    const add = [];
    for (const row of this.#rows) {
      const name = row.name.value.trim();
      const hotkey = row.key.value.trim() || null;
      const colour = row.isColoured ? row.colour.value : null;
      if (row.before === null) {
        if (name) add.push({ name, colour, hotkey });
        continue;
      }
      if (name && name !== row.before.name) rename[row.before.name] = name;
      const look = {};
      if (hotkey !== (row.before.hotkey ?? null)) look.hotkey = hotkey;
      if (colour !== (row.before.colour ?? null)) look.colour = colour;
      if (Object.keys(look).length > 0) show[name || row.before.name] = look;
    }
    const changes = { rename, add, show };
    const isEmpty = Object.keys(rename).length === 0 && Object.keys(show).length === 0 && add.length === 0;
    return isEmpty ? null : changes;
  }

  #add() {
    const row = this.#makeRow(null, { colour: "#808080", hotkey: null });
    this.#rows.push(row);
    row.name.focus();
  }

  #makeRow(before, dealt) {
    const place = (before?.name ?? "") || text.settings.newClass;
    const row = {
      before,
      // A colour input always has a value; only one that somebody chose is sent.
      isColoured: Boolean(before?.colour),
      name: textInput({ value: before?.name ?? "", maxlength: 200, "aria-label": text.settings.className(place) }),
      colour: element("input", { type: "color", value: before?.colour ?? dealt.colour, "aria-label": text.settings.classColour(place) }),
      key: textInput({
        value: before?.hotkey ?? "",
        maxlength: 1,
        placeholder: dealt.hotkey ?? "",
        "aria-label": text.settings.classKey(place),
      }),
    };
    row.colour.addEventListener("input", () => (row.isColoured = true));
    this.#list.append(element("li", { class: "class-row" }, row.colour, row.name, row.key));
    return row;
  }
}
