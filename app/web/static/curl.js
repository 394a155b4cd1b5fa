/** The curl lines that do what the page does. */

import { el } from "./dom.js";

/** Writes curl lines for the address of an `Api`, with a variable in place of its key. */
export class Curl {
  #api;

  constructor(api) {
    this.#api = api;
  }

  /** Return a command that gets a path; `output` is the file of the response. */
  get(path, query, output) {
    return this.#line("", path, query, output);
  }

  /** Return a command that sends a file, or "-" for its input, to a path. */
  send(file, path, query, output) {
    return this.#line(` --data-binary @${file}`, path, query, output);
  }

  /** Return a command that sends JSON to a path. */
  json(text, path, query, output) {
    return this.#line(` -d '${text}'`, path, query, output);
  }

  /** Return a command that sends latents, which are flat arrays, to a path. */
  latents(latents, path, query, output) {
    const rows = latents.map((latent) => [...latent].map((value) => Number(value.toFixed(3))));
    const text = JSON.stringify(rows).replaceAll(",", ", ");
    return this.json(`{"latents": ${text}}`, path, query, output);
  }

  #line(body, path, query, output) {
    const key = this.#api.key ? ' -H "Authorization: Bearer $VAE_API_KEY"' : "";
    const target = output ? ` -o ${output}` : "";
    return `curl -s${key}${body} '${this.#api.url(path, query)}'${target}`;
  }
}

/** Create an element that shows commands; `show(...lines)` replaces them. */
export function commandBlock() {
  const code = el("code");
  const copy = el("button", { type: "button", class: "quiet", onclick: () => copyText(code.textContent, copy) }, "Copy");
  const scroller = el("pre", { tabindex: "0", "aria-label": "The same with curl" }, code);
  const element = el("div", { class: "command", hidden: true }, scroller, copy);
  const show = (...lines) => {
    code.textContent = lines.join("\n");
    element.hidden = false;
  };
  return { element, show };
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
