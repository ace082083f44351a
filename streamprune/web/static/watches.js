// Questions that the server asks by itself, and what came of them.

import { clock, element, newId } from "./format.js";

const MOST_SHOWN = 50;

/** The list of watches and the form above it. */
export class Watches {
  #list = document.getElementById("watches");
  #rows = new Map();
  #connection;

  constructor(connection, complain) {
    this.#connection = connection;
    const input = document.getElementById("watch-question");
    const every = document.getElementById("watch-every");
    document.getElementById("watch-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = input.value.trim();
      if (!question) return;
      const seconds = every.value ? Number(every.value) : null;
      if (connection.say({ type: "watch", id: newId(), question, every: seconds })) input.value = "";
      else complain("There is no connection; the watch was not started.");
    });
  }

  /** Everything that is watched, after a reconnection too. */
  restore(watches) {
    this.#rows.clear();
    this.#list.replaceChildren();
    watches.forEach((watch) => this.add(watch));
  }

  add(watch) {
    const row = element("li", "item");
    const head = element("div", "row");
    const label = element("span", "", watch.question);
    const often = watch.every === null ? "on news" : `every ${watch.every} s`;
    label.append(" ", element("small", "", often));
    const stop = element("button", "plain", "Stop");
    stop.type = "button";
    stop.setAttribute("aria-label", `Stop watching: ${watch.question}`);
    stop.addEventListener("click", () => this.#connection.say({ type: "unwatch", id: watch.id }));
    head.append(label, stop);
    const alerts = element("ul", "alerts");
    row.append(head, alerts);
    this.#rows.set(watch.id, { row, alerts });
    this.#list.append(row);
    watch.alerts.forEach((alert) => this.alert({ id: watch.id, ...alert }));
  }

  alert({ id, seconds, text }) {
    const alerts = this.#rows.get(id)?.alerts;
    if (!alerts) return;
    const line = element("li");
    line.append(element("time", "", clock(seconds)), text);
    alerts.prepend(line);
    while (alerts.childElementCount > MOST_SHOWN) alerts.lastElementChild.remove();
  }

  remove(id) {
    this.#rows.get(id)?.row.remove();
    this.#rows.delete(id);
  }
}
