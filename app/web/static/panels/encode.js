/** Encode and reconstruct: an image, its reconstruction, the error between them, and the posterior. */

import { posteriorChart } from "../charts.js";
import { commandBlock } from "../curl.js";
import { el, number, sizes, toggle } from "../dom.js";
import { channel, descending, deviations, extent, klOf, total } from "../latents.js";
import { difference, heatMap, paint } from "../pixels.js";
import { figures, needsImage, Panel, picture, ramp } from "./panel.js";

const MOST_UNITS = 256;

export class EncodePanel extends Panel {
  #context;
  #pictures = { input: picture("Input"), output: picture("Reconstruction"), error: picture("Error") };
  #figures = figures();
  #latents = el("div", { class: "latents" });
  #readout = el("p", { class: "readout" });
  #command = commandBlock();
  #chart = posteriorChart({ point: (unit) => this.#read(unit), pick: (unit) => this.#context.explore(unit) });
  #byKl = toggle("Sort units by KL", () => this.#draw());
  #table = el("details", { class: "numbers" }, el("summary", {}, "Numbers as a table"));
  #posterior = null;

  constructor(context) {
    super("encode", "Encode and reconstruct", "The posterior q(z|x) of the image, and the image decoded from the posterior mean.");
    this.#context = context;
    const { input, output, error } = this.#pictures;
    this.content = el(
      "div",
      { class: "flow" },
      el("div", { class: "pictures" }, input.element, output.element, error.element),
      this.#figures.element,
      this.#latents,
      this.#command.element,
    );
    error.text.before(ramp());
    this.#table.addEventListener("toggle", () => this.#fillTable());
    context.subject.addEventListener("change", () => this.invalidate());
  }

  async update() {
    const { client, subject, curl, spec } = this.#context;
    const { image } = subject;
    this.body.replaceChildren(image ? this.content : needsImage(spec));
    if (!image) return;
    this.#command.show(curl.send("input.png", "encode"), curl.send("input.png", "reconstruct", {}, "reconstruction.png"));
    const result = await this.task.run("Encoding", (task) =>
      Promise.all([subject.posterior(task), client.reconstruct(image, task)]),
    );
    if (!result) return;
    this.#posterior = withFigures(result[0]);
    this.#showPictures(image, result[1]);
    if (spec.isSpatial) this.#drawMaps();
    else this.#draw();
  }

  #showPictures(image, reconstruction) {
    const { input, output, error } = this.#pictures;
    const map = difference(image, reconstruction);
    paint(input.canvas, image);
    paint(output.canvas, reconstruction);
    paint(error.canvas, heatMap({ ...map, values: map.error, highest: Math.max(map.largest, 1) }));
    error.text.textContent = `Error, 0 to ${Math.round(map.largest)} of 255 levels`;
    const { kl, mean } = this.#posterior;
    this.#figures.show([
      ["RMS error", `${number(map.rms, 1)} levels`],
      ["PSNR", Number.isFinite(map.psnr) ? `${number(map.psnr, 1)} dB` : "equal"],
      kl ? ["KL to the prior", `${number(total(kl), 2)} nats`] : ["Encoder", "deterministic"],
      ["Latent", `${mean.length} values`],
    ]);
  }

  #draw() {
    if (!this.#posterior) return;
    const { kl, mean } = this.#posterior;
    const order = kl && (this.#byKl.box.checked || mean.length > MOST_UNITS) ? descending(kl) : [...mean.keys()];
    if (!this.#latents.firstChild) this.#latents.append(this.#head(kl), this.#readout, this.#chart.element, this.#table);
    this.#chart.show({ ...this.#posterior, order: order.slice(0, MOST_UNITS) });
    this.#read(null);
    this.#fillTable();
  }

  #head(kl) {
    return el("div", { class: "chart-head" }, el("h3", {}, kl ? "Posterior mean ± sd" : "Code"), kl && this.#byKl.element);
  }

  #read(unit) {
    const { mean, sd, kl } = this.#posterior;
    const all = kl ? "The band is one standard deviation of the prior. Click a unit to explore it." : "Click a unit to explore it.";
    const spread = kl ? ` ± ${number(sd[unit], 3)}, KL ${number(kl[unit], 3)} nats` : "";
    this.#readout.textContent = unit === null ? all : `Unit ${unit}: mean ${number(mean[unit], 3)}${spread}`;
  }

  #fillTable() {
    if (!this.#table.open || !this.#posterior) return;
    const { mean, sd, kl } = this.#posterior;
    const names = kl ? ["unit", "mean", "sd", "KL, nats"] : ["unit", "value"];
    const row = (unit) => [String(unit), ...[mean, sd, kl].filter(Boolean).map((values) => number(values[unit], 4))];
    const cells = (kind, texts) => el("tr", {}, texts.map((text) => el(kind, kind === "th" ? { scope: "col" } : {}, text)));
    const rows = [...mean.keys()].slice(0, MOST_UNITS).map((unit) => cells("td", row(unit)));
    this.#table.lastChild.tagName === "DIV" && this.#table.lastChild.remove();
    const table = el("table", {}, el("thead", {}, cells("th", names)), el("tbody", {}, rows));
    this.#table.append(el("div", { class: "table-scroll", tabindex: "0" }, table));
  }

  /** Show the means of each channel as a map, and their standard deviations where there are any. */
  #drawMaps() {
    const { mean, sd, kl, shape } = this.#posterior;
    const row = (values, title, lowest, highest) =>
      Array.from({ length: shape[0] }, (_, c) => mapOf(channel(values, shape, c), shape, { title: `${title}, channel ${c}`, lowest, highest }));
    const reach = Math.max(...extent(mean).map(Math.abs));
    const rows = [el("h3", {}, sd ? "Posterior mean" : "Code"), el("div", { class: "maps" }, row(mean, "Mean", -reach, reach))];
    if (sd) rows.push(el("h3", {}, "Standard deviation"), el("div", { class: "maps" }, row(sd, "Standard deviation", 0, extent(sd)[1])));
    if (kl) rows.push(el("h3", {}, "KL, nats"), el("div", { class: "maps" }, row(kl, "KL", 0, extent(kl)[1])));
    this.#latents.replaceChildren(el("p", { class: "hint" }, `A latent has the shape ${sizes(shape)}; each map is one channel.`), ...rows);
  }
}

/** Add standard deviations and KL to a posterior; a deterministic code has none. */
export function withFigures({ mean, logvar, shape }) {
  return { mean, shape, sd: logvar && deviations(logvar), kl: logvar && klOf(mean, logvar) };
}

function mapOf(values, [, height, width], { title, lowest, highest }) {
  const { canvas, element, text } = picture("", title);
  paint(canvas, heatMap({ values, height, width, lowest, highest }));
  const [low, high] = extent(values);
  text.textContent = `${title.split(", ")[1]}: ${number(low)} to ${number(high)}`;
  return element;
}
