// What happens in a project, as it happens, after what has happened last. Owns the event stream (Server-Sent Events; the browser resumes by
// Last-Event-ID) and the list.

import { address } from "../api.js";
import { element } from "../dom.js";
import { timeOfDay } from "../format.js";
import { text } from "../text.js";

const SHOWN_COUNT = 60;

export class Feed {
  #path;
  #hear;
  #list = element("ol", { class: "feed", tabindex: "0", "aria-label": text.feed.title });
  #state = element("p", { class: "hint feed-state" });
  #source = null;

  /** `hear` gets the kind of every event. */
  constructor(path, hear) {
    this.#path = path;
    this.#hear = hear;
    this.#list.append(element("li", { class: "feed-quiet hint" }, text.feed.quiet));
    this.element = element("div", { class: "feed-frame" }, this.#state, this.#list);
    this.#setState("connecting");
  }

  /** Begins to listen; the stream ends with the page. */
  open() {
    this.#source = new EventSource(address(`${this.#path}/events?last=${SHOWN_COUNT}`));
    this.#source.addEventListener("open", () => this.#setState("live"));
    this.#source.addEventListener("error", () => this.#setState(this.#source.readyState === EventSource.CLOSED ? "closed" : "connecting"));
    for (const kind of Object.keys(text.events)) this.#source.addEventListener(kind, (event) => this.#take(kind, event));
  }

  #take(kind, event) {
    this.#hear(kind);
    const body = parse(event.data);
    const payload = body.payload ?? body;
    this.#list.querySelector(".feed-quiet")?.remove();
    const row = element(
      "li",
      {},
      element("time", {}, timeOfDay(body.created_at ?? new Date())),
      element("span", {}, text.events[kind](payload)),
    );
    this.#list.prepend(row);
    while (this.#list.children.length > SHOWN_COUNT) this.#list.lastChild.remove();
  }

  #setState(state) {
    this.#state.textContent = text.feed[state];
    this.#state.dataset.state = state;
  }
}

function parse(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    return {};
  }
}
