// Who has worked in the project, how much and how well. Owns the table, and the question before somebody's labels are set aside.

import { post } from "../api.js";
import { element, replaceChildren } from "../dom.js";
import { ago, count, percent, score, seconds } from "../format.js";
import { confirm, toast, toastProblem } from "../shell.js";
import { table } from "../table.js";
import { text } from "../text.js";

export class LabelerTable {
  #path;
  #changed;

  /** `changed` is called after labels were set aside. */
  constructor(path, changed) {
    this.#path = path;
    this.#changed = changed;
    this.element = element("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": text.labelers.title });
  }

  /** Shows the service's `rows` of work beside the `measured` rows of agreement; a tool has one of the latter for each person. */
  show(rows, measured) {
    if (rows.length === 0) {
      replaceChildren(this.element, element("p", { class: "nothing" }, text.labelers.empty));
      return;
    }
    const body = rows.flatMap((row) => this.#rowsOf(row, measured.filter((one) => one.labeler === row.labeler)));
    replaceChildren(this.element, table(text.labelers.columns, body));
  }

  #rowsOf(row, measured) {
    const persons = measured.filter((one) => one.person !== null);
    const own = measured.find((one) => one.person === null);
    const name = [row.name, element("span", { class: "hint" }, ` ${text.roles[row.role] ?? row.role}`)];
    const work = [
      count(row.label_count),
      count(row.skip_count),
      count(row.undone_count + row.corrected_count),
      row.seconds_median === null ? "–" : seconds(row.seconds_median),
      count(row.held_count),
      row.last_label_at === null ? "–" : ago(row.last_label_at),
    ];
    return [
      this.#row(name, work, own, row.name),
      ...persons.map((one) => this.#row([text.labelers.person(one.person)], [count(one.vote_count), "", "", "", "", ""], one, one.person)),
    ];
  }

  #row(name, work, measured, who) {
    const quality = measured ? judge(measured) : ["–", "–", "–"];
    const action = measured && measured.vote_count > 0 && this.#setAside(measured, who);
    const aside = measured?.set_aside_count > 0 && element("span", { class: "hint" }, text.labelers.setAside(count(measured.set_aside_count)));
    return element(
      "tr",
      { class: measured?.person ? "sub" : "" },
      element("th", { scope: "row" }, name),
      [...work, ...quality].map((words) => element("td", { class: "number" }, words)),
      element("td", { class: "number" }, action, aside),
    );
  }

  #setAside(measured, who) {
    const words = text.labelers.setAsideWords;
    const run = async () => {
      const agreed = await confirm({ title: words.title(who), body: words.body(count(measured.vote_count)), yes: words.yes, tone: "danger" });
      if (!agreed) return;
      try {
        const done = await post(`${this.#path}/labelers/${encodeURIComponent(measured.labeler)}/set-aside`, { person: measured.person });
        toast(words.done(count(done.label_count), count(done.asked_again_count), count(done.returned_count)), { lasting: true });
        await this.#changed();
      } catch (error) {
        toastProblem(error);
      }
    };
    return element("button", { type: "button", class: "link", on: { click: run } }, words.label);
  }
}

/** How far somebody agrees, and how often they are right, each with what it rests on. */
function judge({ cohen_kappa: kappa, shared_count: shared, estimated_accuracy: estimated, gold_accuracy: gold, gold_count, gold_interval }) {
  const bounds = gold_interval && text.labelers.bounds(percent(gold_interval.low, 0), percent(gold_interval.high, 0));
  return [
    kappa === null ? "–" : [score(kappa), note(text.labelers.onImages(count(shared)))],
    estimated === null ? "–" : percent(estimated, 0),
    gold === null ? "–" : [percent(gold, 0), note(text.labelers.onGold(count(gold_count), bounds))],
  ];
}

function note(words) {
  return element("span", { class: "hint cell-note" }, words);
}
