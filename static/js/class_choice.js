// The question which class an image has, asked outside the desk: its picture beside the classes with their keys. Owns the dialog.

import { element } from "./dom.js";
import { openDialog } from "./shell.js";

/**
 * Shows `image` (an element) beside `classes` (from `dealKeys`), and calls `choose` with the one that is picked. `current` is the name of the
 * class it has; `note` stands below the picture.
 */
export function askClass({ title, image, classes, current, note = null, choose }) {
  const pick = (to) => {
    dialog.close();
    choose(to);
  };
  const buttons = classes.map((to) =>
    element(
      "button",
      {
        type: "button",
        class: to.name === current ? "class-button guessed" : "class-button",
        autofocus: to.name === current,
        "aria-pressed": String(to.name === current),
        vars: { "--class-colour": to.colour },
        on: { click: () => pick(to) },
      },
      element("kbd", { "aria-hidden": "true" }, to.hotkey?.toUpperCase() ?? "·"),
      element("span", { class: "class-name" }, to.name),
    ),
  );
  const picture = element("div", { class: "correction-picture" }, image, note);
  const body = element("div", { class: "correction" }, picture, element("div", { class: "class-list" }, buttons));
  const dialog = openDialog({ title, body, wide: true });
  dialog.addEventListener("keydown", (event) => {
    const to = classes.find((candidate) => candidate.hotkey === event.key.toLowerCase());
    if (!to) return;
    event.preventDefault();
    pick(to);
  });
}
