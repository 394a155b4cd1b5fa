/** Sample: draws from the prior. */

import { commandBlock } from "../curl.js";
import { el, field, number } from "../dom.js";
import { paint } from "../pixels.js";
import { isLarge } from "../spec.js";
import { Panel } from "./panel.js";

const MOST = 144;

export class SamplePanel extends Panel {
  #context;
  #count = el("input", { type: "number", min: 1, max: MOST, inputmode: "numeric" });
  #temperature = el("input", { type: "range", min: 0, max: 2, step: 0.05, value: 1 });
  #level = el("output", { class: "level" }, "1.00");
  #seed = el("input", { type: "text", inputmode: "numeric", pattern: "[0-9]+", autocomplete: "off", spellcheck: "false" });
  #grid = el("div", { class: "grid-images", "aria-label": "Samples" });
  #chosen = el("p", { class: "note", role: "status" });
  #command = commandBlock();

  constructor(context) {
    super("sample", "Sample", "New images: the means of p(x|z) for draws z from the prior N(0, I), scaled by the temperature.");
    this.#context = context;
    this.#newSeed();
    this.#count.value = String(isLarge(context.spec) ? 8 : 48);
    this.#grid.classList.toggle("large", isLarge(context.spec));
    const controls = el(
      "form",
      { class: "controls", onsubmit: (event) => (event.preventDefault(), this.refresh()) },
      field("Images", this.#count),
      field("Temperature", this.#temperature),
      this.#level,
      field("Seed", this.#seed),
      el("button", { class: "primary", type: "button", onclick: () => (this.#newSeed(), this.refresh()) }, "New seed"),
    );
    for (const input of [this.#count, this.#seed]) input.addEventListener("change", () => this.refresh());
    this.#temperature.addEventListener("input", () => this.refresh());
    this.body.append(controls, this.#grid, this.#chosen, this.#command.element);
  }

  #newSeed() {
    this.#seed.value = String(Math.floor(Math.random() * 1e6));
  }

  async update() {
    const { client, curl, subject, picker } = this.#context;
    this.#seed.value = this.#seed.value.trim();
    if (!this.#seed.value) this.#newSeed();
    const query = { n: this.#count.value, seed: this.#seed.value, temperature: this.#temperature.value };
    this.#level.textContent = number(this.#temperature.valueAsNumber);
    const images = await this.task.run("Sampling", (task) => client.sample(query, task));
    if (!images) return;
    this.#command.show(curl.get("sample", query, "samples.png"));
    this.#show(images, query.seed);
    subject.learn(images);
    if (!subject.image) picker.take(images[0], `sample 1, seed ${query.seed}`);
  }

  #show(images, seed) {
    const tiles = images.map((image, i) => {
      const tile = this.#tileAt(i);
      paint(tile.firstChild, image);
      tile.onclick = () => this.#choose(tile, image, `sample ${i + 1}, seed ${seed}`);
      tile.classList.remove("chosen");
      return tile;
    });
    if (tiles.length !== this.#grid.children.length) this.#grid.replaceChildren(...tiles);
    this.#chosen.textContent = "Click an image to take it along to the other panels.";
  }

  /** Return the tile of a place, which stays when its image changes. */
  #tileAt(i) {
    const label = `Sample ${i + 1}: make it the current image`;
    return this.#grid.children[i] ?? el("button", { type: "button", class: "tile", "aria-label": label }, el("canvas"));
  }

  #choose(tile, image, name) {
    for (const other of this.#grid.children) other.classList.toggle("chosen", other === tile);
    this.#context.picker.take(image, name);
    const link = (id, text) => el("a", { href: `#${id}` }, text);
    const parts = [`The current image is ${name}: `, link("encode", "encode"), ", ", link("explore", "explore"), " or "];
    this.#chosen.replaceChildren(...parts, link("score", "score"), " it.");
  }
}
