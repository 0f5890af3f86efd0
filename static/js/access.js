// Who and what may use the service: people's tokens. Owns the page's frame.

import { get, pages } from "./api.js";
import { Tokens } from "./access/tokens.js";
import { panel } from "./board/panel.js";
import { element, replaceChildren } from "./dom.js";
import { layOut, openPage } from "./shell.js";
import { text } from "./text.js";

openPage(async () => {
  const main = document.querySelector("main");
  const [me, projects] = await Promise.all([get("/me"), pages("/projects")]);
  main.className = "page";
  layOut({ me, title: text.access.title, main });
  const tokens = me.role === "admin" ? new Tokens(me, projects) : null;
  replaceChildren(
    main,
    element("div", { class: "page-head" }, element("h1", {}, text.access.title)),
    element(
      "div",
      { class: "access" },
      tokens ? panel(text.tokens.title, tokens.element) : element("p", { class: "notice" }, text.access.adminsOnly),
    ),
  );
  await tokens?.refresh();
});
