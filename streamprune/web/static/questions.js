// Questions and their answers, as they come.

import { clock, duration, element, newId } from "./format.js";

/** The list of exchanges and the form under it. */
export class Questions {
  #list = document.getElementById("exchanges");
  #rows = new Map();
  #connection;

  constructor(connection, complain) {
    this.#connection = connection;
    const [form, input] = [document.getElementById("ask-form"), document.getElementById("question")];
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const question = input.value.trim();
      if (!question) return;
      if (connection.say({ type: "ask", id: newId(), question })) input.value = "";
      else complain("There is no connection; the question was not sent.");
    });
  }

  /** Everything that was asked before, after a reconnection too. */
  restore(history) {
    this.#rows.clear();
    this.#list.replaceChildren();
    history.forEach((exchange) => this.add(exchange));
  }

  add(exchange) {
    const row = element("li");
    const parts = {
      row,
      answer: element("p", "answer"),
      about: element("span"),
      stop: element("button", "plain", "Stop"),
    };
    parts.stop.type = "button";
    parts.stop.addEventListener("click", () => this.#connection.say({ type: "cancel", id: exchange.id }));
    const about = element("div", "about");
    about.append(parts.about, parts.stop);
    row.append(element("p", "question", exchange.question), parts.answer, about);
    this.#rows.set(exchange.id, parts);
    this.#list.append(row);
    this.finish(exchange);
  }

  piece(id, text) {
    const parts = this.#rows.get(id);
    if (parts) parts.answer.textContent += text;
    this.#scroll();
  }

  /** The state of an exchange: answering still, or over. */
  finish(exchange) {
    const parts = this.#rows.get(exchange.id);
    if (!parts) return;
    const { row, answer, about, stop } = parts;
    row.dataset.state = exchange.state;
    row.setAttribute("aria-busy", String(exchange.state === "answering"));
    answer.textContent = exchange.state === "failed" ? exchange.error : exchange.text;
    stop.hidden = exchange.state !== "answering";
    const at = exchange.seconds === null ? [] : [`asked at ${clock(exchange.seconds)}`];
    if (exchange.state === "cancelled") at.push("stopped");
    if (exchange.ms !== null) at.push(`in ${duration(exchange.ms)}`);
    about.textContent = at.join(" · ");
    this.#scroll();
  }

  #scroll() {
    this.#list.scrollTop = this.#list.scrollHeight;
  }
}
