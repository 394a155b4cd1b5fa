/** Explore a spatial latent: each of its channels is moved as a whole, with a strip of what it changes. */

import { el, number } from "../dom.js";
import { channel, total } from "../latents.js";
import { Explorer } from "./explore.js";
import { fillStrip } from "./panel.js";

const REACH = 3;
const STOPS = [-3, -2, -1, 0, 1, 2, 3];
const FIRST_CHANNELS = 16;

/** Offsets are in standard deviations of the channel's values over the places of the current latent. */
export class ExploreChannelsPanel extends Explorer {
  #strips = [];
  #selected = 0;

  constructor(context) {
    super(context, "Each row moves one channel of the latent by the same amount everywhere.");
  }

  select(unit) {
    this.#selected = unit;
  }

  get #channels() {
    return Math.min(this.posterior.shape[0], FIRST_CHANNELS);
  }

  /** Channels that have a strip: all, or the selected one alone where images are large. */
  get #withStrip() {
    return !this.isLarge ? Array.from({ length: this.#channels }, (_, c) => c) : [this.#selected];
  }

  rows() {
    this.#strips = [];
    return Array.from({ length: this.#channels }, (_, index) => this.#row(index));
  }

  #row(index) {
    const choose = () => (this.#selected = index);
    const input = this.slider(index, REACH, `Channel ${index}`, (value) => {
      choose();
      this.z = this.#shifted(index, value);
    });
    const track = el("span", { class: "track" }, input);
    const strip = el("div", { class: "strip", role: "group", "aria-label": `Channel ${index}` });
    this.#strips.push(strip);
    const row = el("div", { class: "slider" }, el("span", { class: "unit-name" }, `channel ${index}`), track, this.sliders.get(index).output);
    return el("div", { class: "channel" }, row, strip);
  }

  place() {
    for (const index of this.sliders.keys()) this.placeSlider(index, this.#offsetOf(index));
  }

  strips() {
    return this.#withStrip.flatMap((index) => STOPS.map((value) => this.#shifted(index, value)));
  }

  showStrips(images) {
    this.#withStrip.forEach((index, i) => {
      const own = images.slice(i * STOPS.length, (i + 1) * STOPS.length);
      const go = (stop) => () => this.move(this.#shifted(index, STOPS[stop]));
      fillStrip(this.#strips[index], own, STOPS.map((value) => `${number(value, 0)} sd`), go);
    });
  }

  /** Return the latent with one channel `value` deviations away from its posterior mean. */
  #shifted(index, value) {
    const { mean, shape } = this.posterior;
    const next = this.z.slice();
    const own = channel(mean, shape, index);
    const step = value * deviationOf(own);
    channel(next, shape, index).set(own.map((m) => m + step));
    return next;
  }

  /** Return how far a channel is away from its posterior mean, on average over its places. */
  #offsetOf(index) {
    const { mean, shape } = this.posterior;
    const own = channel(mean, shape, index);
    const now = channel(this.z, shape, index);
    return (total(now) - total(own)) / own.length / deviationOf(own);
  }

  commands(curl) {
    return [`${curl.send("input.png", "encode")} | ${curl.send("-", "decode", {}, "image.png")}`];
  }
}

function deviationOf(values) {
  const mean = total(values) / values.length;
  return Math.sqrt(total(values.map((value) => (value - mean) ** 2)) / values.length) || 1;
}
