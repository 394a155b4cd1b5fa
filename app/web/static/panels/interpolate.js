/** Interpolate: the way from one image to another through the latents, as a strip and as an animation. */

import { Problem } from "../api.js";
import { commandBlock } from "../curl.js";
import { download, el, field, number } from "../dom.js";
import { gifOf } from "../gif.js";
import { lerp, slerp } from "../latents.js";
import { paint, rgba } from "../pixels.js";
import { Task } from "../task.js";
import { fillStrip, Panel, picture } from "./panel.js";

const FRAME_MS = 140;
const REST_MS = 700;
const SMALLEST_SIDE = 224;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export class InterpolatePanel extends Panel {
  #context;
  #ends = {};
  #way = el("select", {}, el("option", { value: "linear" }, "linear"), el("option", { value: "spherical" }, "spherical"));
  #steps = el("input", { type: "range", min: 2, max: 16, value: 9 });
  #count = el("output", { class: "level" }, "9");
  #strip = el("div", { class: "strip wide", role: "group", "aria-label": "Interpolation" });
  #film = picture("", "Animation of the interpolation");
  #play = el("button", { type: "button", onclick: () => this.#toggle() }, "Pause");
  #command = commandBlock();
  #missing = el("p", { class: "empty", hidden: true }, "Two images are needed. Make an image the current one and use it here, then another.");
  #result = el("div", { class: "flow", hidden: true });
  #frames = [];
  #latents = [];
  #frame = 0;
  #direction = 1;
  #timer = 0;
  #playing = !STILL.matches;

  constructor(context) {
    super("interpolate", "Interpolate", "The images between two latents, on a straight line or on a great circle, which keeps their distance from zero.");
    this.#context = context;
    for (const input of [this.#way, this.#steps]) input.addEventListener("input", () => this.refresh());
    const save = (text, work) => el("button", { type: "button", onclick: work }, text);
    const ends = [this.#end("a", "From"), this.#end("b", "To")];
    const saves = [save("Save PNG", () => this.#savePng()), save("Save GIF", () => this.#saveGif()), save("Save latents", () => this.#saveLatents())];
    const controls = el("div", { class: "controls" }, field("Way", this.#way), field("Steps", this.#steps), this.#count);
    const film = el("div", { class: "film" }, this.#film.element, el("div", { class: "row" }, this.#play, saves));
    this.#result.append(controls, this.#strip, film, this.#command.element);
    this.body.append(el("div", { class: "ends" }, ends), this.#missing, this.#result);
  }

  hide() {
    super.hide();
    clearTimeout(this.#timer);
  }

  show() {
    super.show();
    if (this.#frames.length) this.#advance();
  }

  #end(key, caption) {
    const end = { ...picture(caption, `${caption} this image`), task: new Task(), image: null };
    this.#ends[key] = end;
    const button = (text, onclick) => el("button", { type: "button", onclick }, text);
    const take = () => this.#context.subject.image && this.#set(end, this.#context.subject.image);
    const sample = !this.#context.spec.refusal("sample") && button("New sample", () => this.#sample(end));
    return el("div", { class: "end" }, end.element, el("div", { class: "row" }, button("Use current image", take), sample), end.task.element);
  }

  async #sample(end) {
    const seed = Math.floor(Math.random() * 1e6);
    const images = await end.task.run("Sampling", (task) => this.#context.client.sample({ n: 1, seed }, task));
    if (images) await this.#set(end, images[0]);
  }

  #set(end, image) {
    end.image = image;
    end.posterior = null;
    paint(end.canvas, image);
    return this.refresh();
  }

  async #fillEnds(task) {
    const { client, subject, spec } = this.#context;
    const { a, b } = this.#ends;
    if (!a.image && subject.image) this.#adopt(a, subject.image);
    if (!b.image && !spec.refusal("sample")) this.#adopt(b, (await client.sample({ n: 1, seed: Math.floor(Math.random() * 1e6) }, task))[0]);
    for (const end of [a, b]) if (end.image) end.posterior ??= await client.encode(end.image, task);
  }

  #adopt(end, image) {
    end.image = image;
    paint(end.canvas, image);
  }

  async update() {
    const { client } = this.#context;
    const steps = this.#steps.valueAsNumber;
    this.#count.textContent = String(steps);
    const frames = await this.task.run("Interpolating", async (task) => {
      await this.#fillEnds(task);
      const { a, b } = this.#ends;
      if (!a.posterior || !b.posterior) return [];
      if (String(a.posterior.shape) !== String(b.posterior.shape)) throw new Problem({ title: "Different sizes", detail: "the two images have different sizes; choose images of one size" });
      const between = this.#way.value === "linear" ? lerp : slerp;
      this.#latents = Array.from({ length: steps }, (_, i) => between(a.posterior.mean, b.posterior.mean, i / (steps - 1)));
      return client.decode(this.#latents, a.posterior.shape, task);
    });
    if (!frames) return;
    this.#result.hidden = !frames.length;
    this.#missing.hidden = !this.#result.hidden;
    if (!frames.length) return;
    this.#frames = frames;
    this.#command.show(this.#line(steps));
    fillStrip(this.#strip, frames, frames.map((_, i) => number(i / (steps - 1))), (i) => () => this.#stop(i));
    this.#frame = Math.min(this.#frame, frames.length - 1);
    this.#advance();
  }

  /** Return the command: from the latents of both ends, or where these are long from the file of "Save latents". */
  #line(steps) {
    const { curl, spec } = this.#context;
    if (spec.isSpatial) return curl.send("latents.json", "decode", { columns: steps }, "interpolation.png");
    const ends = [this.#ends.a, this.#ends.b].map(({ posterior }) => posterior.mean);
    const mode = this.#way.value === "linear" ? "linear" : "slerp";
    return curl.latents(ends, "interpolate", { steps, mode }, "interpolation.png");
  }

  /** Show the next frame after a while: forwards and backwards, with a rest at both ends. */
  #advance() {
    clearTimeout(this.#timer);
    this.#paintFrame();
    this.#play.textContent = this.#playing ? "Pause" : "Play";
    if (!this.#playing) return;
    const last = this.#frames.length - 1;
    if (this.#frame >= last) this.#direction = -1;
    if (this.#frame <= 0) this.#direction = 1;
    const rest = this.#frame === 0 || this.#frame === last ? REST_MS : FRAME_MS;
    this.#timer = setTimeout(() => {
      this.#frame = Math.min(Math.max(this.#frame + this.#direction, 0), last);
      this.#advance();
    }, rest);
  }

  #paintFrame() {
    paint(this.#film.canvas, this.#frames[this.#frame]);
    [...this.#strip.children].forEach((tile, i) => tile.classList.toggle("chosen", i === this.#frame));
  }

  #toggle() {
    this.#playing = !this.#playing;
    this.#advance();
  }

  #stop(frame) {
    [this.#frame, this.#playing] = [frame, false];
    this.#advance();
  }

  #savePng() {
    const { width, height } = this.#frames[0];
    const canvas = el("canvas", { width: width * this.#frames.length, height });
    const context = canvas.getContext("2d");
    this.#frames.forEach((frame, i) => context.putImageData(rgba(frame), i * width, 0));
    canvas.toBlob((blob) => download(blob, "interpolation.png"));
  }

  #saveGif() {
    const factor = Math.max(1, Math.round(SMALLEST_SIDE / Math.max(this.#frames[0].width, this.#frames[0].height)));
    const large = this.#frames.map((frame) => enlarged(frame, factor));
    const film = [...large, ...large.slice(1, -1).reverse()];
    const last = large.length - 1;
    const delays = film.map((_, i) => (i === 0 || i === last ? REST_MS : FRAME_MS) / 10);
    download(gifOf(film, delays), "interpolation.gif");
  }

  #saveLatents() {
    const { shape } = this.#ends.a.posterior;
    const latents = this.#latents.map((latent) => nestedList([...latent], shape));
    download(new Blob([JSON.stringify({ latents })], { type: "application/json" }), "latents.json");
  }
}

/** Return an image with each pixel as a square of `factor` by `factor`. */
function enlarged({ data, width, height, channels }, factor) {
  const [w, h] = [width * factor, height * factor];
  const large = new Uint8Array(w * h * channels);
  for (let y = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      const from = (Math.floor(y / factor) * width + Math.floor(x / factor)) * channels;
      for (let c = 0; c < channels; c += 1) large[(y * w + x) * channels + c] = data[from + c];
    }
  }
  return { data: large, width: w, height: h, channels };
}

/** Return a flat list of values as nested lists of a shape. */
function nestedList(values, [, ...inner]) {
  if (!inner.length) return values;
  const size = inner.reduce((product, length) => product * length, 1);
  return Array.from({ length: values.length / size }, (_, i) => nestedList(values.slice(i * size, (i + 1) * size), inner));
}
