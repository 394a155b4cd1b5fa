/** Explore: move the latent of the current image, and see the image that it decodes to. */

import { commandBlock } from "../curl.js";
import { el, number } from "../dom.js";
import { channel, descending, drawn, extent, klOf, total } from "../latents.js";
import { paint } from "../pixels.js";
import { latest } from "../task.js";
import { withFigures } from "./encode.js";
import { needsImage, Panel, picture } from "./panel.js";

const FIRST_UNITS = 10;
const REACH = 3;
const STRIP = 11;
const CHANNEL_STRIP = 7;
const USAGE_SAMPLES = 64;
const UNUSED = 0.01;
const MOST_INLINE = 64;
const SLOW_MS = 150;

export class ExplorePanel extends Panel {
  #context;
  #posterior = null;
  #z = null;
  #usage = null;
  #order = [];
  #selected = null;
  #shownUnits = FIRST_UNITS;
  #live = picture("Decoded", "Decoded image");
  #rows = el("div", { class: "sliders" });
  #more = el("button", { type: "button", class: "quiet", onclick: () => this.#showMore() });
  #strip = el("div", { class: "strip", role: "group", "aria-label": "Traversal" });
  #stripTitle = el("h3");
  #command = commandBlock();
  #sliders = new Map();
  #decodeLatest = latest(() => this.#decode());
  #stripLatest = latest(() => this.#traverse());

  constructor(context) {
    const lead = "Each slider is one unit of the latent, the most used first. The image follows while you drag.";
    super("explore", "Explore", context.spec.isSpatial ? "Each row moves one channel of the latent everywhere." : lead);
    this.#context = context;
    this.content = el("div", { class: "explore" }, this.#stage(), el("div", {}, this.#rows, this.#more), this.#below());
    context.subject.addEventListener("change", () => this.invalidate());
  }

  /** Select a unit, with its slider in view. */
  select(unit) {
    this.#selected = unit;
    const place = this.#order.indexOf(unit);
    if (place >= this.#shownUnits) this.#shownUnits = this.#order.length;
    if (this.#z) this.#buildRows();
  }

  async update() {
    const { subject } = this.#context;
    this.body.replaceChildren(subject.image ? this.content : needsImage());
    if (!subject.image) return;
    const posterior = await this.task.run("Encoding", (task) => this.#load(task));
    if (!posterior) return;
    this.#posterior = withFigures(posterior);
    if (!this.#order.length || !this.#usage) this.#order = this.#unitsByUse();
    this.#selected ??= this.#order[0];
    this.#z = this.#posterior.mean.slice();
    this.#buildRows();
    await this.#changed();
  }

  async #load(task) {
    const { subject, spec } = this.#context;
    if (!spec.isSpatial && !this.#usage && !spec.refusal("sample")) this.#usage = await this.#measureUsage(task);
    return subject.posterior(task);
  }

  /** Return the mean KL of each unit over samples of the model, in nats; null for a deterministic encoder. */
  async #measureUsage(task) {
    const { client } = this.#context;
    const posteriors = await client.encodeAll(await client.sample({ n: USAGE_SAMPLES, seed: 0 }, task), task);
    if (!posteriors[0].logvar) return null;
    const all = posteriors.map(({ mean, logvar }) => klOf(mean, logvar));
    return all[0].map((_, unit) => total(all.map((kl) => kl[unit])) / all.length);
  }

  #unitsByUse() {
    const { mean, kl, shape } = this.#posterior;
    if (this.#context.spec.isSpatial) return Array.from({ length: shape[0] }, (_, c) => c);
    return descending(this.#usage ?? kl ?? mean.map(Math.abs));
  }

  #stage() {
    const button = (text, onclick) => el("button", { type: "button", onclick }, text);
    const move = (next) => () => {
      this.#z = next();
      this.#place();
    };
    const { mean, sd } = { mean: () => this.#posterior.mean, sd: () => this.#posterior.sd };
    const draw = () => (sd() ? drawn(mean(), sd()) : mean().slice());
    return el(
      "div",
      { class: "stage" },
      this.#live.element,
      el("div", { class: "row" }, button("Reset to mean", move(() => mean().slice())), button("Draw from posterior", move(draw)),
        button("Set to zero", move(() => new Float32Array(mean().length)))),
    );
  }

  #below() {
    const strip = this.#context.spec.isSpatial ? [] : [this.#stripTitle, this.#strip];
    return el("div", { class: "below" }, strip, this.#command.element);
  }

  #showMore() {
    this.#shownUnits = this.#shownUnits > FIRST_UNITS ? FIRST_UNITS : this.#order.length;
    this.#buildRows();
  }

  #buildRows() {
    const focused = document.activeElement?.dataset?.unit;
    this.#sliders.clear();
    const shown = this.#order.slice(0, this.#shownUnits);
    this.#rows.replaceChildren(...shown.map((unit) => (this.#context.spec.isSpatial ? this.#channelRow(unit) : this.#unitRow(unit))));
    this.#more.hidden = this.#order.length <= FIRST_UNITS;
    this.#more.textContent = this.#shownUnits > FIRST_UNITS ? `Show the first ${FIRST_UNITS}` : `Show all ${this.#order.length}`;
    if (focused) this.#sliders.get(Number(focused))?.input.focus();
    this.#place();
  }

  #unitRow(unit) {
    const { mean, sd } = this.#posterior;
    const reach = Math.max(REACH, Math.ceil(Math.abs(mean[unit]) + (sd?.[unit] ?? 0)));
    const input = this.#slider(unit, reach, `Unit ${unit}`, (value) => (this.#z[unit] = value));
    const usage = this.#usage?.[unit];
    const most = this.#usage && extent(this.#usage)[1];
    const bar = el("span", { class: "use-bar" });
    if (usage !== undefined) bar.style.setProperty("--use", usage / most);
    const about = usage === undefined ? "" : usage < UNUSED ? "unused" : `${number(usage)} nats`;
    const band = el("span", { class: "band" });
    const low = mean[unit] - (sd?.[unit] ?? 0.02);
    band.style.setProperty("--from", (low + reach) / (2 * reach));
    band.style.setProperty("--span", (2 * (sd?.[unit] ?? 0.02)) / (2 * reach));
    const name = el("span", { class: "unit-name" }, `z${unit}`);
    return this.#row(unit, name, el("span", { class: "use" }, bar, el("span", {}, about)), el("span", { class: "track" }, band, input));
  }

  #channelRow(index) {
    const shift = (value) => this.#shiftChannel(index, value);
    const input = this.#slider(index, REACH, `Channel ${index}`, shift);
    const strip = el("div", { class: "strip", role: "group", "aria-label": `Channel ${index}` });
    const row = this.#row(index, el("span", { class: "unit-name" }, `channel ${index}`), el("span", { class: "track" }, input));
    this.#sliders.get(index).strip = strip;
    return el("div", { class: "channel" }, row, strip);
  }

  #slider(unit, reach, label, set) {
    const input = el("input", { type: "range", min: -reach, max: reach, step: 0.01, "aria-label": label, "data-unit": unit });
    const output = el("output", { class: "value" });
    input.addEventListener("input", () => {
      set(input.valueAsNumber);
      output.textContent = number(input.valueAsNumber);
      this.#choose(unit);
      this.#changed();
    });
    input.addEventListener("focus", () => this.#choose(unit) && this.#stripLatest());
    this.#sliders.set(unit, { input, output });
    return input;
  }

  #row(unit, ...content) {
    const row = el("div", { class: "slider", onpointerdown: () => this.#choose(unit) }, content, this.#sliders.get(unit).output);
    this.#sliders.get(unit).row = row;
    return row;
  }

  /** Mark a unit as the selected one; returns whether it was another. */
  #choose(unit) {
    const other = unit !== this.#selected;
    this.#selected = unit;
    for (const [own, { row }] of this.#sliders) row.classList.toggle("chosen", own === unit);
    return other;
  }

  /** Move the sliders to the latent, and decode it. */
  #place() {
    const { spec } = this.#context;
    for (const [unit, { input, output }] of this.#sliders) {
      const value = spec.isSpatial ? this.#shiftOf(unit) : this.#z[unit];
      input.value = String(value);
      output.textContent = number(value);
    }
    this.#choose(this.#selected);
    return this.#changed();
  }

  #changed() {
    this.#stripLatest();
    return this.#decodeLatest();
  }

  async #decode() {
    const { client, spec, curl } = this.#context;
    const z = this.#z.slice();
    const { shape } = this.#posterior;
    if (z.length <= MOST_INLINE) {
      const short = `[${[...z].map((value) => Number(value.toFixed(3))).join(", ")}]`;
      this.#command.show(curl.json(`{"latents": [${spec.isSpatial ? nested(z, shape) : short}]}`, "decode", {}, "image.png"));
    } else this.#command.show(`${curl.send("input.png", "encode")} | ${curl.send("-", "decode", {}, "image.png")}`);
    const images = await this.task.run("Decoding", (task) => client.decode([z], shape, task));
    if (images) paint(this.#live.canvas, images[0]);
  }

  async #traverse() {
    if (this.#context.spec.isSpatial) return this.#traverseChannels();
    const unit = this.#selected;
    const { input } = this.#sliders.get(unit) ?? {};
    const reach = input ? Number(input.max) : REACH;
    const values = Array.from({ length: STRIP }, (_, i) => -reach + (2 * reach * i) / (STRIP - 1));
    this.#stripTitle.textContent = `Unit ${unit} from ${number(-reach, 0)} to ${number(reach, 0)}`;
    const latents = values.map((value) => this.#z.with(unit, value));
    const images = await this.#context.client.decode(latents, this.#posterior.shape, {}).catch(() => null);
    if (!images) return undefined;
    const set = (i) => () => ((this.#z[unit] = values[i]), this.#place());
    return fillStrip(this.#strip, images, values.map((value) => number(value, 1)), set);
  }

  async #traverseChannels() {
    const { client } = this.#context;
    const { shape } = this.#posterior;
    const values = Array.from({ length: CHANNEL_STRIP }, (_, i) => -REACH + (2 * REACH * i) / (CHANNEL_STRIP - 1));
    for (const [index, { strip }] of this.#sliders) {
      const start = performance.now();
      const latents = values.map((value) => this.#shifted(this.#z, index, value));
      const images = await client.decode(latents, shape, {}).catch(() => null);
      if (!images) return;
      const set = (i) => () => (this.#shiftChannel(index, values[i]), this.#place());
      fillStrip(strip, images, values.map((value) => `${number(value, 0)} sd`), set);
      if (performance.now() - start > SLOW_MS * CHANNEL_STRIP && index !== this.#selected) return;
    }
  }

  #shiftChannel(index, value) {
    this.#z = this.#shifted(this.#z, index, value);
  }

  /** Return a latent with one channel `value` standard deviations of its values away from the posterior mean. */
  #shifted(z, index, value) {
    const { mean, shape } = this.#posterior;
    const next = z.slice();
    const own = channel(mean, shape, index);
    channel(next, shape, index).set(own.map((m) => m + value * this.#unitOf(own)));
    return next;
  }

  #unitOf(values) {
    const middle = total(values) / values.length;
    return Math.sqrt(total(values.map((value) => (value - middle) ** 2)) / values.length) || 1;
  }

  #shiftOf(index) {
    const { mean, shape } = this.#posterior;
    const own = channel(mean, shape, index);
    const delta = total(channel(this.#z, shape, index).map((value, i) => value - own[i])) / own.length;
    return delta / this.#unitOf(own);
  }
}

/** Write a latent [C, H, W] as nested lists. */
function nested(z, [channels, height, width]) {
  const list = (n, make) => `[${Array.from({ length: n }, (_, i) => make(i)).join(", ")}]`;
  const value = (c, y, x) => Number(z[(c * height + y) * width + x].toFixed(3));
  return list(channels, (c) => list(height, (y) => list(width, (x) => value(c, y, x))));
}

/** Show images in a row, each a button with its text below. Buttons stay when their images change. */
export function fillStrip(strip, images, texts, onclick) {
  while (strip.children.length > images.length) strip.lastChild.remove();
  images.forEach((image, i) => {
    const tile = strip.children[i] ?? strip.appendChild(el("button", { type: "button", class: "tile" }, el("canvas", { "aria-hidden": "true" }), el("small")));
    tile.onclick = onclick(i);
    tile.lastChild.textContent = texts[i];
    paint(tile.firstChild, image);
  });
}
