/** Score: how well the model explains the current image, and where it does not. */

import { distributionChart } from "../charts.js";
import { commandBlock } from "../curl.js";
import { el, field, number } from "../dom.js";
import { difference, heatMap, paint } from "../pixels.js";
import { needsImage, Panel, picture, ramp } from "./panel.js";

/** Fields of a score: name, unit, digits, and what the figure means. Fields that a service does not send are left out. */
const FIGURES = [
  ["typicality", "Typicality", "", 3, "The p-value of the image among held-out images: small values mean that few of them deviate as much."],
  ["percentile", "Percentile", "%", 1, "The share of reference images with an ELBO that is not higher. Low means untypical; simple images, even blank ones, get high values."],
  ["elbo", "ELBO", "nats", 2, "A lower bound on log p(x): reconstruction minus KL. Higher is better."],
  ["log_likelihood", "log p(x), importance-weighted", "nats", 2, "A tighter bound on log p(x), from all draws together."],
  ["reconstruction", "Reconstruction", "nats", 2, "The expected log p(x|z): how well the decoder explains the pixels."],
  ["kl", "KL", "nats", 2, "The distance of the posterior from the prior: what the latent tells about the image."],
  ["bits_per_dim", "Bits per dimension", "bits", 3, "The negative ELBO per pixel value in bits, for comparing models. Lower is better."],
  ["squared_error", "Squared error", "", 5, "The mean squared error of the reconstruction, for pixels in [0, 1]."],
  ["psnr", "PSNR", "dB", 1, "The peak signal-to-noise ratio of the reconstruction. Higher is better."],
];

export class ScorePanel extends Panel {
  #context;
  #controls = el("div", { class: "controls" });
  #note = el("p", { class: "notice waiting" });
  #samples = el("select", {}, [1, 16, 64, 256].map((n) => el("option", { value: n, selected: n === 64 }, String(n))));
  #seed = el("input", { type: "text", inputmode: "numeric", pattern: "[0-9]+", value: "0", autocomplete: "off" });
  #list = el("dl", { class: "scores" });
  #chart = distributionChart();
  #place = el("div", { class: "place-in-reference" }, el("h3", {}, "Place among the reference"), el("p", { class: "hint" }), this.#chart.element);
  #pictures = { input: picture("Input"), error: picture("Error") };
  #command = commandBlock();
  #reference = undefined;

  constructor(context) {
    super("score", "Score", "How probable the image is under the model, in nats, and where it deviates from its reconstruction.");
    this.#context = context;
    for (const input of [this.#samples, this.#seed]) input.addEventListener("change", () => this.refresh());
    this.#controls.append(field("Draws", this.#samples), field("Seed", this.#seed));
    this.#controls.hidden = Boolean(context.spec.refusal("elbo"));
    this.#note.hidden = !this.#controls.hidden;
    this.#note.textContent = `There is no ELBO of this model: ${context.spec.refusal("elbo")}.`;
    const { input, error } = this.#pictures;
    error.text.before(ramp());
    this.content = el(
      "div",
      { class: "flow" },
      this.#controls,
      this.#note,
      el("div", { class: "score-body" }, this.#list, el("div", {}, this.#place, el("div", { class: "pictures two" }, input.element, error.element))),
      this.#command.element,
    );
    context.subject.addEventListener("change", () => this.invalidate());
  }

  async update() {
    const { client, curl, subject, spec } = this.#context;
    const { image } = subject;
    this.body.replaceChildren(image ? this.content : needsImage(spec));
    if (!image) return;
    const query = spec.refusal("elbo") ? {} : { samples: this.#samples.value, seed: this.#seed.value.trim() };
    this.#command.show(curl.send("input.png", "score", query));
    const result = await this.task.run("Scoring", async (task) => {
      this.#reference ??= (await client.history(task)).reference ?? null;
      return Promise.all([client.score(image, query, task), client.reconstruct(image, task)]);
    });
    if (result) this.#show(image, ...result);
  }

  #show(image, score, reconstruction) {
    const known = FIGURES.filter(([name]) => score[name] != null);
    this.#list.replaceChildren(...known.map(([name, title, unit, digits, meaning]) => entry(title, number(score[name], digits), unit, meaning)));
    const percentiles = this.#reference?.elbo;
    this.#place.hidden = !percentiles || score.elbo == null;
    if (!this.#place.hidden) {
      const { images, split } = this.#reference;
      const which = `${images ? `${images.toLocaleString("en")} ` : ""}images of the ${split ?? "evaluation"}`;
      this.#place.children[1].textContent = `The ELBO of this image among those of ${which}.`;
      this.#chart.show(percentiles, score.elbo);
    }
    const map = difference(image, reconstruction);
    paint(this.#pictures.input.canvas, image);
    paint(this.#pictures.error.canvas, heatMap({ ...map, values: map.error, highest: Math.max(map.largest, 1) }));
    this.#pictures.error.text.textContent = `Error, 0 to ${Math.round(map.largest)} of 255 levels`;
  }
}

function entry(title, value, unit, meaning) {
  return el("div", {}, el("dt", {}, title), el("dd", {}, el("b", {}, value), ` ${unit}`), el("dd", { class: "hint" }, meaning));
}
