// The sign-in page. Owns the trade of a token or a one-time code for the session's cookie. A code comes in the address's fragment, which is
// never sent to a server, and is cleared before anything else happens.

import { Problem, post } from "./api.js";
import { element, replaceChildren } from "./dom.js";
import { layOut, problemText } from "./shell.js";
import { text } from "./text.js";

const fragment = new URLSearchParams(location.hash.slice(1));
const next = readNext(fragment.get("next"));
const code = fragment.get("code");
if (location.hash) history.replaceState(null, "", location.pathname);

const main = element("main", { class: "sign-in" });
layOut({ me: null, title: text.signIn.title, main });
if (code) signIn({ code });
else showForm();

/** Only a path of this site: a link must not lead people elsewhere after they signed in. */
function readNext(path) {
  if (!path) return "/";
  try {
    const target = new URL(path, location.origin);
    return target.origin === location.origin && path.startsWith("/") ? target.pathname + target.search : "/";
  } catch {
    return "/";
  }
}

async function signIn(proof) {
  replaceChildren(main, element("p", { class: "notice", role: "status" }, text.signIn.working));
  try {
    await post("/session", proof, { stay: true });
    location.replace(next);
  } catch (error) {
    showForm(describe(error, proof));
  }
}

function describe(error, proof) {
  if (error instanceof Problem && error.status === 401) return proof.code ? text.signIn.usedCode : text.signIn.wrongToken;
  return problemText(error);
}

function showForm(problem = null) {
  const input = element("input", {
    id: "token",
    name: "token",
    type: "password",
    required: true,
    autocomplete: "current-password",
    spellcheck: "false",
    "aria-describedby": problem ? "token-hint token-problem" : "token-hint",
    "aria-invalid": problem ? "true" : null,
  });
  const submit = (event) => {
    event.preventDefault();
    signIn({ token: input.value.trim() });
  };
  const form = element(
    "form",
    { class: "card form", on: { submit } },
    element("h1", {}, text.signIn.heading),
    element("label", { for: "token" }, text.signIn.token),
    input,
    problem && element("p", { class: "field-problem", id: "token-problem", role: "alert" }, problem),
    element("p", { class: "hint", id: "token-hint" }, text.signIn.hint),
    element("button", { class: "button primary", type: "submit" }, text.signIn.submit),
  );
  replaceChildren(main, form);
  input.focus();
}
