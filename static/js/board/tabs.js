// The parts of a project's page, one in sight at a time. Owns which, the keys between them, and the address's fragment, by which a link leads
// to a part.

import { element } from "../dom.js";

export class Tabs {
  #tabs;
  #changed;
  #current = null;

  /** `tabs` is `[{id, title, content}]`; `changed` gets the id of the part that came into sight. */
  constructor(label, tabs, changed) {
    this.#tabs = tabs.map((tab) => ({ ...tab, button: this.#button(tab), panel: panel(tab) }));
    this.#changed = changed;
    this.list = element("div", { class: "tabs", role: "tablist", "aria-label": label }, this.#tabs.map((tab) => tab.button));
    this.panels = this.#tabs.map((tab) => tab.panel);
    this.list.addEventListener("keydown", (event) => this.#press(event));
    addEventListener("hashchange", () => this.#follow());
    this.#follow();
  }

  /** The id of the part in sight. */
  get current() {
    return this.#current;
  }

  /** Brings a part into sight. */
  choose(id, { focus = false } = {}) {
    const chosen = this.#tabs.find((tab) => tab.id === id) ?? this.#tabs[0];
    for (const tab of this.#tabs) {
      const isChosen = tab === chosen;
      tab.button.setAttribute("aria-selected", String(isChosen));
      tab.button.tabIndex = isChosen ? 0 : -1;
      tab.panel.hidden = !isChosen;
    }
    if (focus) chosen.button.focus();
    // On a phone there are more parts than fit.
    chosen.button.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (this.#current === chosen.id) return;
    const isFirst = this.#current === null;
    this.#current = chosen.id;
    if (!isFirst) {
      history.replaceState(null, "", `#${chosen.id}`);
      this.#changed(chosen.id);
    }
  }

  /** Offers only the parts for which `isOffered(id)` holds; one that is in sight stays. */
  offer(isOffered) {
    for (const tab of this.#tabs) tab.button.hidden = !isOffered(tab.id) && tab.id !== this.#current;
  }

  #follow() {
    this.choose(location.hash.slice(1));
  }

  #press(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const offered = this.#tabs.filter((tab) => !tab.button.hidden);
    const at = offered.findIndex((tab) => tab.id === this.#current);
    const to = step ? (at + step + offered.length) % offered.length : { Home: 0, End: offered.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(offered[to].id, { focus: true });
  }

  #button({ id, title }) {
    return element(
      "button",
      { type: "button", class: "tab", role: "tab", id: `tab-${id}`, "aria-controls": `part-${id}`, on: { click: () => this.choose(id) } },
      title,
    );
  }
}

function panel({ id, content }) {
  return element("div", { class: "part", role: "tabpanel", id: `part-${id}`, "aria-labelledby": `tab-${id}` }, content);
}
