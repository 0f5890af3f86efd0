// A secret that the service tells once: shown to be copied, and forgotten with the page.

import { element } from "../dom.js";
import { textInput } from "../form.js";
import { toast } from "../shell.js";
import { text } from "../text.js";

/** A frame with `secret` in a field called `name`, a button that copies it, and `hint` on what it is for. */
export function shownOnce({ name, secret, hint }) {
  const input = textInput({ readonly: true, value: secret, "aria-label": name });
  const copy = async () => {
    input.select();
    if (await copied(secret)) toast(text.secret.copied);
    else toast(text.secret.byHand);
  };
  const frame = element(
    "div",
    { class: "report secret" },
    element("p", {}, element("strong", {}, name), " ", hint),
    element(
      "div",
      { class: "token-row" },
      input,
      element("button", { type: "button", class: "button primary", on: { click: copy } }, text.secret.copy),
    ),
  );
  return frame;
}

/** Whether the browser copied it: the new way needs a secure context, the old one the selected field. */
async function copied(secret) {
  try {
    await navigator.clipboard.writeText(secret);
    return true;
  } catch {
    return document.execCommand("copy");
  }
}
