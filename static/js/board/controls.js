// Start, pause, resume, finish, retry. Owns which of them a state allows, and the question before those that can't be taken back.

import { post } from "../api.js";
import { element, icon, replaceChildren } from "../dom.js";
import { confirm, toast, toastProblem } from "../shell.js";
import { text } from "../text.js";

const RUNNING = ["pretraining", "labeling", "training", "scoring"];

export class Controls {
  #path;
  #operator;
  #changed;
  #shown = "";

  /** `changed` is called after the service has taken a command. */
  constructor(path, operator, changed) {
    this.#path = path;
    this.#operator = operator;
    this.#changed = changed;
    this.element = element("div", { class: "row controls", role: "group", "aria-label": text.controls.title });
  }

  /** Offers what `project`'s state allows. */
  show(project) {
    const names = this.#operator ? allowed(project) : [];
    if (names.join() === this.#shown) return;
    this.#shown = names.join();
    replaceChildren(
      this.element,
      names.map((name) => this.#button(name)),
    );
  }

  /** Asks, and carries a command out. */
  run(name) {
    return this.#command(name);
  }

  #button(name) {
    const words = text.controls[name];
    const kind = name === "start" || name === "retry" || name === "resume" ? "button accent" : "button";
    return element("button", { type: "button", class: kind, on: { click: () => this.#command(name) } }, icon(SYMBOLS[name]), words.label);
  }

  async #command(name) {
    const words = text.controls[name];
    const agreed = await confirm({ title: words.title, body: words.body, yes: words.label, tone: name === "finish" ? "danger" : "plain" });
    if (!agreed) return;
    try {
      await post(`${this.#path}/${name}`);
      toast(words.done);
      await this.#changed();
    } catch (error) {
      toastProblem(error);
    }
  }
}

const SYMBOLS = { start: "play", pause: "pause", resume: "play", finish: "flag", retry: "retry" };

function allowed(project) {
  const names = [];
  if (project.failure !== null) names.push("retry");
  if (project.state === "ready" || project.state === "finished") names.push("start");
  if (RUNNING.includes(project.state)) names.push(project.isPaused ? "resume" : "pause", "finish");
  return names;
}
