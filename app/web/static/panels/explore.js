/** Explore: move the latent of the current image, and see the image that it decodes to. */

import { commandBlock } from "../curl.js";
import { el, number } from "../dom.js";
import { descending, drawn, extent, klOf, total } from "../latents.js";
import { paint } from "../pixels.js";
import { isLarge } from "../spec.js";
import { latest } from "../task.js";
import { withFigures } from "./encode.js";
import { fillStrip, needsImage, Panel, picture } from "./panel.js";

const FIRST_UNITS = 10;
const REACH = 3;
const MOST_REACH = 10;
const STRIP = 11;
const USAGE_SAMPLES = 64;
const SLOW_MS = 250;
const UNUSED = 0.01;

/**
 * Base of the explorers of vector and spatial latents: the decoded image, and rows of sliders.
 *
 * A subclass has `rows()`, which returns the elements of its rows, and `place()`, which moves their sliders to the
 * latent `z`. Its `strips()` are the latents to decode besides `z`, and `showStrips(images)` gets their images.
 */
export class Explorer extends Panel {
  posterior = null;
  z = null;
  sliders = new Map();
  rowList = el("div", { class: "sliders" });
  below = el("div", { class: "flow below" });
  #isSlow = false;
  #live = picture("Decoded", "Decoded image");
  #command = commandBlock();

  constructor(context, lead) {
    super("explore", "Explore", lead);
    this.context = context;
    this.content = el("div", { class: "explore" }, this.#stage(), el("div", {}, this.rowList), this.below);
    this.content.hidden = true;
    this.below.append(this.#command.element);
    this.decode = latest(() => this.#decode());
    context.subject.addEventListener("change", () => this.invalidate());
  }

  async update() {
    const { spec, subject } = this.context;
    this.body.replaceChildren(subject.image ? this.content : needsImage(spec));
    if (!subject.image) return;
    const posterior = await this.task.run("Encoding", (task) => this.load(task));
    if (!posterior) return;
    this.posterior = withFigures(posterior);
    this.z = this.posterior.mean.slice();
    this.build();
    this.content.hidden = false;
    await this.decode();
  }

  load(task) {
    return this.context.subject.posterior(task);
  }

  /** Build the rows again; the focus stays on the slider that had it. */
  build() {
    const focused = document.activeElement?.dataset?.unit;
    this.sliders.clear();
    this.rowList.replaceChildren(...this.rows());
    if (focused) this.sliders.get(Number(focused))?.input.focus();
    this.place();
  }

  /** Go to another latent. */
  move(z) {
    this.z = z;
    this.place();
    return this.decode();
  }

  /** Create a slider of a unit; `set(value)` changes the latent when it is moved. */
  slider(unit, reach, label, set) {
    const input = el("input", { type: "range", min: -reach, max: reach, step: 0.01, "aria-label": label, "data-unit": unit });
    const output = el("output", { class: "value" });
    input.addEventListener("input", () => {
      set(input.valueAsNumber);
      output.textContent = valueText(input.valueAsNumber);
      this.decode();
    });
    this.sliders.set(unit, { input, output });
    return input;
  }

  /** Move the slider of a unit to a value. */
  placeSlider(unit, value) {
    const { input, output } = this.sliders.get(unit);
    input.value = String(value);
    output.textContent = valueText(value);
  }

  #stage() {
    const button = (text, next) => el("button", { type: "button", onclick: () => this.move(next(this.posterior)) }, text);
    const buttons = [
      button("Reset to mean", ({ mean }) => mean.slice()),
      this.context.spec.refusal("samples") ? [] : button("Draw from posterior", ({ mean, sd }) => drawn(mean, sd)),
      button("Set to zero", ({ mean }) => new Float32Array(mean.length)),
    ];
    return el("div", { class: "stage" }, this.#live.element, el("div", { class: "row" }, buttons));
  }

  /** Whether the current image is too large to decode many of its size at once. */
  get isLarge() {
    return isLarge(this.context.subject.image);
  }

  /** Decode the latent and those of the strips: in one request, or where that takes long the strips once it rests. */
  async #decode() {
    this.#command.show(...this.commands(this.context.curl, this.z));
    const z = this.z.slice();
    const start = performance.now();
    const images = await this.#decodeAll(this.#isSlow || this.isLarge ? [z] : [z, ...this.strips()]);
    if (!images) return;
    paint(this.#live.canvas, images[0]);
    if (images.length > 1) this.showStrips(images.slice(1));
    else if (z.every((value, i) => value === this.z[i])) await this.#decodeStrips();
    if (performance.now() - start > SLOW_MS) this.#isSlow = true;
  }

  async #decodeStrips() {
    const images = await this.#decodeAll(this.strips());
    if (images) this.showStrips(images);
  }

  #decodeAll(latents) {
    return this.task.run("Decoding", (task) => this.context.client.decode(latents, this.posterior.shape, task));
  }
}

/** Return a value as a text that fits beside its slider. */
const valueText = (value) => number(value, Math.abs(value) >= 100 ? 0 : 2);

/** Explores a latent of single units: a slider for each, the most used first, and a traversal of the selected one. */
export class ExplorePanel extends Explorer {
  #usage = null;
  #order = null;
  #selected = null;
  #all = false;
  #more = el("button", { type: "button", class: "quiet", onclick: () => ((this.#all = !this.#all), this.build()) });
  #far = el("p", { class: "hint", hidden: true }, `The image is far from those of the model. Sliders end at ±${MOST_REACH}; a value outside stays until its slider is moved.`);
  #title = el("h3");
  #strip = el("div", { class: "strip", role: "group", "aria-label": "Traversal" });

  constructor(context) {
    super(context, "Each slider is one unit of the latent, the most used first. The image follows while you drag.");
    this.rowList.before(this.#far);
    this.rowList.after(this.#more);
    this.below.prepend(this.#title, this.#strip);
  }

  /** Select a unit, with its slider in view. */
  select(unit) {
    this.#selected = unit;
    if (!this.z) return;
    this.#all ||= this.#order.indexOf(unit) >= FIRST_UNITS;
    this.build();
    this.decode();
  }

  async load(task) {
    if (!this.#usage && !this.context.spec.refusal("sample")) this.#usage = await this.#measureUsage(task);
    return super.load(task);
  }

  /** Return the mean KL of each unit over samples of the model, in nats; null for a deterministic encoder. */
  async #measureUsage(task) {
    const { client } = this.context;
    const posteriors = await client.encodeAll(await client.sample({ n: USAGE_SAMPLES, seed: 0 }, task), task);
    if (!posteriors[0].logvar) return null;
    const all = posteriors.map(({ mean, logvar }) => klOf(mean, logvar));
    return all[0].map((_, unit) => total(all.map((kl) => kl[unit])) / all.length);
  }

  rows() {
    const { mean, kl } = this.posterior;
    if (!this.#usage || !this.#order) this.#order = descending(this.#usage ?? kl ?? mean.map(Math.abs));
    this.#selected ??= this.#order[0];
    this.#all ||= this.#order.indexOf(this.#selected) >= FIRST_UNITS;
    this.#far.hidden = !mean.some((_, unit) => this.#extentOf(unit) > this.#reachOf(unit));
    this.#more.hidden = this.#order.length <= FIRST_UNITS;
    this.#more.textContent = this.#all ? `Show the first ${FIRST_UNITS}` : `Show all ${this.#order.length}`;
    return (this.#all ? this.#order : this.#order.slice(0, FIRST_UNITS)).map((unit) => this.#row(unit));
  }

  #row(unit) {
    const reach = this.#reachOf(unit);
    const input = this.slider(unit, reach, `Unit ${unit}`, (value) => {
      this.z[unit] = value;
      this.#choose(unit);
    });
    input.addEventListener("focus", () => this.#choose(unit) && this.decode());
    const track = el("span", { class: "track" }, this.#band(unit, reach), input);
    const row = el("div", { class: "slider" }, el("span", { class: "unit-name" }, `z${unit}`), this.#use(unit), track, this.sliders.get(unit).output);
    this.sliders.get(unit).row = row;
    return row;
  }

  /** Return the limit of a slider: wider than the prior if the posterior is, up to a limit for models with a prior. */
  #reachOf(unit) {
    const reach = Math.max(REACH, Math.ceil(this.#extentOf(unit)));
    return this.posterior.sd ? Math.min(reach, MOST_REACH) : reach;
  }

  #extentOf(unit) {
    const { mean, sd } = this.posterior;
    return Math.abs(mean[unit]) + (sd?.[unit] ?? 0);
  }

  /** Show how much the unit is used, beside the most used one. */
  #use(unit) {
    if (!this.#usage) return el("span");
    const nats = this.#usage[unit];
    const bar = el("span", { class: "use-bar" });
    bar.style.setProperty("--use", nats / extent(this.#usage)[1]);
    return el("span", { class: "use" }, bar, el("span", {}, nats < UNUSED ? "unused" : `${number(nats)} nats`));
  }

  /** Show the posterior of the unit behind its slider: one standard deviation around the mean. */
  #band(unit, reach) {
    const { mean, sd } = this.posterior;
    const spread = sd?.[unit] ?? 0;
    const band = el("span", { class: "band" });
    const place = (value) => Math.min(Math.max((value + reach) / (2 * reach), 0), 1);
    const from = place(mean[unit] - spread);
    band.style.setProperty("--from", from);
    band.style.setProperty("--span", place(mean[unit] + spread) - from);
    return band;
  }

  place() {
    for (const unit of this.sliders.keys()) this.placeSlider(unit, this.z[unit]);
    this.#choose(this.#selected);
  }

  /** Mark a unit as the selected one; returns whether it was another. */
  #choose(unit) {
    const other = unit !== this.#selected;
    this.#selected = unit;
    for (const [own, { row }] of this.sliders) row.classList.toggle("chosen", own === unit);
    return other;
  }

  #stops() {
    const reach = this.#reachOf(this.#selected);
    return Array.from({ length: STRIP }, (_, i) => -reach + (2 * reach * i) / (STRIP - 1));
  }

  strips() {
    return this.#stops().map((value) => this.z.with(this.#selected, value));
  }

  showStrips(images) {
    const stops = this.#stops();
    const reach = stops.at(-1);
    this.#title.textContent = `Unit ${this.#selected} from ${number(-reach, 0)} to ${number(reach, 0)}`;
    const go = (i) => () => this.move(this.z.with(this.#selected, stops[i]));
    fillStrip(this.#strip, images, stops.map((value) => number(value, 1)), go);
  }

  commands(curl, z) {
    return [curl.latents([z], "decode", {}, "image.png")];
  }
}
