/** The status of a piece of work: busy, waiting for a retry, or failed with the detail of its problem. */

import { el } from "./dom.js";
import { Problem } from "./api.js";

const BUSY_AFTER_MS = 200;

/** The number of pieces of work under way; the event `change` follows each change. */
class Work extends EventTarget {
  underWay = 0;

  count(change) {
    this.underWay += change;
    this.dispatchEvent(new Event("change"));
  }
}

/** The work of all tasks of the page. */
export const work = new Work();

/** Runs one piece of work at a time, and shows its state in `element`. A new one ends the one before. */
export class Task {
  #controller = null;
  #timer = 0;
  element = el("div", { class: "task", role: "status" });

  /** Run `job({ signal, waiting })`; returns its result, or undefined if it failed or was replaced. */
  async run(label, job) {
    this.cancel();
    work.count(1);
    const controller = (this.#controller = new AbortController());
    const busy = setTimeout(() => this.#show("busy", `${label}…`), BUSY_AFTER_MS);
    const waiting = (problem, seconds, attempt, attempts) => {
      clearTimeout(busy);
      this.#countDown(problem, seconds, `attempt ${attempt} of ${attempts}`);
    };
    try {
      const result = await job({ signal: controller.signal, waiting });
      if (this.#controller !== controller) return undefined;
      this.#clear();
      return result;
    } catch (error) {
      if (this.#controller === controller) this.#fail(error);
      return undefined;
    } finally {
      clearTimeout(busy);
      work.count(-1);
    }
  }

  /** End the work under way, and forget its state. */
  cancel() {
    this.#controller?.abort(new DOMException("replaced by other work", "AbortError"));
    this.#controller = null;
    this.#clear();
  }

  #clear() {
    clearInterval(this.#timer);
    this.element.replaceChildren();
  }

  #show(kind, ...content) {
    this.#clear();
    this.element.append(el("div", { class: `notice ${kind}` }, ...content));
  }

  #countDown(problem, seconds, attempt) {
    const left = el("span", {}, String(seconds));
    const cancel = el("button", { type: "button", class: "quiet", onclick: () => this.cancel() }, "Cancel");
    const text = el("span", {}, el("b", {}, `${problem.title}. `), `${problem.detail}. Sent again in `, left, ` s, ${attempt}.`);
    this.#show("waiting", text, cancel);
    this.#timer = setInterval(() => (left.textContent = String(Math.max(0, Number(left.textContent) - 1))), 1000);
  }

  #fail(error) {
    this.#controller = null;
    if (!(error instanceof Problem)) console.error(error);
    const { title = "Failed", status = 0, requestId = "" } = error;
    const facts = [status && `status ${status}`, requestId && `request ${requestId}`].filter(Boolean).join(", ");
    this.#show("problem", el("b", {}, `${title}. `), error.message, facts && el("small", {}, facts));
  }
}

/** Returns a function that calls `job` with the latest arguments, one call at a time; those in between are dropped. */
export function latest(job) {
  let next = null;
  let running = false;
  return async (...args) => {
    next = args;
    if (running) return;
    running = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await job(...now);
      }
    } finally {
      running = false;
    }
  };
}
