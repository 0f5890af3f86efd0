// Who and what may use the service, and where its events go: tokens and webhooks. Owns the page's frame.

import { get, pages } from "./api.js";
import { Tokens } from "./access/tokens.js";
import { Webhooks } from "./access/webhooks.js";
import { panel } from "./board/panel.js";
import { element, replaceChildren } from "./dom.js";
import { isOperator, layOut, openPage } from "./shell.js";
import { text } from "./text.js";

openPage(async () => {
  const main = document.querySelector("main");
  const [me, projects] = await Promise.all([get("/me"), pages("/projects")]);
  main.className = "page";
  layOut({ me, title: text.access.title, main });
  const tokens = me.role === "admin" ? new Tokens(me, projects) : null;
  const webhooks = isOperator(me) || me.role === "tool" ? new Webhooks(projects) : null;
  replaceChildren(
    main,
    element("div", { class: "page-head" }, element("h1", {}, text.access.title)),
    element(
      "div",
      { class: "access" },
      tokens && panel(text.tokens.title, tokens.element),
      webhooks && panel(text.webhooks.title, webhooks.element),
      !tokens && !webhooks && element("p", { class: "notice" }, text.access.nothing),
    ),
  );
  await Promise.all([tokens?.refresh(), webhooks?.refresh()]);
});
