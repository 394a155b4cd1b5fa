/** Model: what is served, in words and figures. */

import { curveChart } from "../charts.js";
import { commandBlock } from "../curl.js";
import { count, el, number, rounded, sizes } from "../dom.js";
import { paint } from "../pixels.js";
import { isLarge } from "../spec.js";
import { figures, Panel } from "./panel.js";

const SAMPLES = 16;
const LACKS = { sample: "No samples", samples: "No draws from the posterior", elbo: "No ELBO" };

const LIKELIHOODS = {
  bernoulli: "a Bernoulli likelihood: pixels are black or white, and grey is a probability",
  gaussian: "a Gaussian likelihood with a fixed standard deviation",
  logistic: "a discretised logistic likelihood of 8-bit levels",
  "logistic-shared": "a discretised logistic likelihood of 8-bit levels, with one scale for each channel",
};

export class ModelPanel extends Panel {
  #context;
  #command = commandBlock();

  constructor(context) {
    super("model", "Model", summaryOf(context.spec));
    this.#context = context;
  }

  async update() {
    const { client, curl, spec } = this.#context;
    const metrics = await this.task.run("Reading the records", (task) => client.history(task));
    this.#command.show(curl.get("model"), curl.get("model/history"));
    const parts = [served(spec), ...evaluated(metrics), ...separated(metrics), ...trained(metrics)];
    if (!spec.refusal("sample")) parts.push(samples(await this.task.run("Sampling", (task) => client.sample({ n: isLarge(spec) ? SAMPLES / 4 : SAMPLES, seed: 0 }, task))));
    this.body.replaceChildren(el("div", { class: "cards" }, parts), this.#command.element);
  }
}

/** Describe a model in a sentence. */
export function summaryOf({ model, channels, height, width, sizes: rule, latentShape, likelihood }) {
  const { channels: layers = [], parameters } = model.architecture ?? {};
  const isNative = (model.format ?? "native") === "native";
  const kind = !isNative ? `A model in the format ${model.format}` : layers.length ? "A convolutional VAE" : "A VAE";
  const size = rule ? `of multiples of ${rule.factor} pixels` : `of ${height} × ${width} pixels`;
  const colour = channels === 1 ? "grey" : channels === 3 ? "colour" : `${channels}-channel`;
  const latents = latentShape.length > 1 ? `latents of ${sizes(latentShape)}` : `${latentShape[0]} latent units`;
  const weights = rounded(model.parameters ?? parameters ?? 0);
  return `${kind} with ${weights} weights: ${colour} images ${size}, ${latents}, ${LIKELIHOODS[likelihood] ?? likelihood ?? "no likelihood"}.`;
}

function card(title, ...content) {
  return el("article", { class: "card" }, el("h3", {}, title), content);
}

function facts(entries) {
  const list = figures();
  list.show(entries.filter(([, figure]) => figure != null && figure !== ""));
  list.element.classList.add("facts");
  return list.element;
}

function served({ model, sizes: rule, height, width, channels, latentShape, refusal }) {
  const digest = el("code", { class: "digest" }, model.digest);
  const image = rule ? `${channels} × multiples of ${rule.factor} from ${rule.minimum} to ${rule.maximum}` : sizes([channels, height, width]);
  const refusals = Object.entries(LACKS).map(([capability, what]) => [what, refusal(capability)]);
  return card("Served", facts([
    ["Name", model.model.split(":")[0]],
    ["Format", model.format],
    ["Image", image],
    ["Latent", sizes(latentShape)],
    ["Weights", count(model.parameters)],
    ["Device", model.device],
    ["Precision", model.precision],
    ["Runtime", model.runtime],
    ["Bytes independent of the load", model.batch_invariant ? "yes" : "for requests with a seed"],
    ["SHA-256 of the weights", digest],
    ...refusals,
  ]));
}

function evaluated(metrics) {
  const best = metrics?.evaluations?.[0];
  if (!best) return [];
  const error = best.standard_error ? ` ± ${number(best.standard_error)}` : "";
  const note = `${count(best.images)} images of the ${best.split ?? "evaluation"}, K = ${best.samples}. Figures are in nats, higher is better.`;
  return [card("Evaluation", facts([
    ["log p(x), bound", best.log_likelihood == null ? null : `${number(best.log_likelihood)}${error}`],
    ["ELBO", number(best.elbo)],
    ["Reconstruction", number(best.reconstruction)],
    ["KL", number(best.kl)],
    ["Bits per dimension", number(best.bits_per_dim, 4)],
    ["Active units", best.active_units == null ? null : `${best.active_units} of ${best.units}`],
  ]), el("p", { class: "hint" }, note))];
}

/** Show how well the ELBO separates other data sets: the area under the ROC curve of each. */
function separated(metrics) {
  const areas = Object.entries(metrics?.reference?.areas ?? {});
  if (!areas.length) return [];
  const row = ([name, area]) => {
    const bar = el("meter", { min: 0, max: 1, value: area, "aria-label": name });
    return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, bar), el("td", { class: "figure" }, number(area, 3)));
  };
  const note = "The probability that an evaluated image has a higher ELBO than one of the other data set (AUROC). 0.5 is chance.";
  return [card("Told from other images", el("table", { class: "areas" }, el("tbody", {}, areas.map(row))), el("p", { class: "hint" }, note))];
}

function trained(metrics) {
  const training = metrics?.training;
  if (!training) return [];
  const { data, epochs = [], options = {}, seconds } = training;
  const about = facts([
    ["Data", data && `${data.source}, ${count(data.train)} images`],
    ["Epochs", epochs.length ? count(epochs.length) : null],
    ["Batch size", options.batch_size],
    ["Time", seconds && `${number(seconds / 60, 0)} minutes on ${training.device}`],
  ]);
  const cards = [card("Training", about, training.command && wrapped(training.command))];
  if (epochs.length > 1) cards.push(learning(epochs));
  return cards;
}

/** Show a command that breaks between its words alone: a browser would break a line behind any hyphen. */
function wrapped(command) {
  const words = command.split(" ").flatMap((word) => [" ", el("span", {}, word)]);
  return el("pre", { class: "wrapped", tabindex: "0" }, words.slice(1));
}

function samples(images) {
  if (!images) return null;
  const canvases = images.map((image) => {
    const canvas = el("canvas");
    paint(canvas, image);
    return canvas;
  });
  const grid = el("div", { class: "card-images", role: "img", "aria-label": `${images.length} samples of the model` }, canvases);
  return card("Samples, seed 0", grid);
}

function learning(epochs) {
  const curve = (kind, field) => ({ kind, points: epochs.filter((one) => one[field] != null).map((one) => [one.epoch, one[field]]) });
  const series = [curve("train", "elbo"), curve("validation", "validation")].filter(({ points }) => points.length);
  const chart = curveChart("ELBO by epoch");
  chart.show(series);
  const key = series.map(({ kind }) => el("span", { class: `key ${kind}` }, kind === "train" ? "training" : "held-out images"));
  return card("ELBO by epoch, nats", el("p", { class: "keys" }, key), chart.element);
}
