/** The side of the page where the current image is chosen, dropped, pasted, drawn or sampled. */

import { Problem } from "./api.js";
import { download, el, field, toggle } from "./dom.js";
import { Pad } from "./pad.js";
import { fitted, inverted, paint, pngOf } from "./pixels.js";
import { sizeFor } from "./spec.js";
import { Task } from "./task.js";

const WIDE = matchMedia("(min-width: 900px)");
const FITS = { resize: "resize", pad: "pad with black", crop: "crop to the middle" };

/** Shows the current image and the ways to another one. */
export class Picker {
  #spec;
  #client;
  #subject;
  #task = new Task();
  #canvas = el("canvas", { class: "subject-image", role: "img" });
  #thumbnail = el("canvas", { class: "thumbnail", "aria-hidden": "true" });
  #name = el("span", { class: "subject-name" });
  #caption = el("p", { class: "hint" });
  #hint = el("p", { class: "notice waiting", hidden: true });
  #invert = toggle("Invert", () => this.#publish());
  #fit = el("select", { onchange: () => this.#refit() });
  #save = el("button", { type: "button", disabled: true, onclick: () => this.#download() }, "Save");
  #bitmap = null;
  #source = null;

  constructor({ spec, client, subject }) {
    [this.#spec, this.#client, this.#subject] = [spec, client, subject];
    this.element = this.#build();
    this.#acceptFiles();
    subject.addEventListener("change", () => this.#show());
    if (spec.drawable) this.#makePad();
    else this.#canvas.hidden = true;
  }

  /** Make an image the current one, as it is. */
  take(image, name) {
    this.#bitmap = null;
    this.#source = image;
    this.#invert.box.checked = false;
    this.#publish(name);
  }

  #build() {
    const summary = el("summary", {}, this.#thumbnail, el("span", {}, el("b", {}, "Image "), this.#name));
    const body = el("div", { class: "subject-body" }, this.#canvas, this.#caption, this.#hint, this.#controls(), this.#task.element);
    const element = el("details", { class: "subject" }, summary, body);
    const follow = () => (element.open = WIDE.matches);
    WIDE.addEventListener("change", follow);
    follow();
    return el("aside", { "aria-label": "Current image" }, element);
  }

  #controls() {
    const file = el("input", { type: "file", accept: "image/*", class: "visually-hidden", id: "image-file" });
    file.addEventListener("change", () => {
      if (file.files.length) this.#load(file.files[0]);
      file.value = ""; // so that the same file can be chosen again
    });
    for (const [value, text] of Object.entries(FITS)) this.#fit.append(el("option", { value }, text));
    this.fitField = field("Fit to the model", this.#fit);
    this.fitField.hidden = true;
    const button = (text, onclick) => el("button", { type: "button", onclick }, text);
    const can = !this.#spec.refusal("sample");
    return el(
      "div",
      { class: "stack" },
      el("div", { class: "row" }, el("label", { class: "button", for: "image-file" }, "Choose file"), file,
        can && button("New sample", () => this.sample()),
        this.#spec.drawable && button("Draw new", () => this.clear()),
        this.#save),
      this.#invert.element,
      this.fitField,
    );
  }

  /** Start with an empty pad. */
  clear() {
    this.take(this.#blank(), "empty");
  }

  #blank() {
    const { channels, height, width } = this.#spec;
    return { data: new Uint8Array(channels * height * width), channels, height, width };
  }

  #makePad() {
    this.#canvas.setAttribute("aria-label", "Drawing pad. Arrow keys move the pen, with Shift they draw.");
    paint(this.#canvas, this.#blank());
    new Pad(this.#canvas, {
      read: () => this.#subject.image ?? this.#blank(),
      draw: (image) => {
        this.#bitmap = null;
        this.#source = this.#invert.box.checked ? inverted(image) : image;
        this.#publish("drawing");
      },
    });
  }

  #acceptFiles() {
    const first = (transfer) => {
      const files = [...(transfer?.files ?? [])];
      return files.find((file) => file.type.startsWith("image/")) ?? files[0];
    };
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      const file = first(event.dataTransfer);
      if (file) this.#load(file);
    });
    addEventListener("paste", (event) => {
      const file = first(event.clipboardData);
      if (file) this.#load(file);
    });
  }

  async #load(file) {
    const bitmap = await this.#task.run("Reading", async () => {
      try {
        return await createImageBitmap(file);
      } catch {
        const detail = `${file.name}: this browser cannot read it; expected PNG, JPEG, WebP, GIF, BMP or AVIF`;
        throw new Problem({ title: "Unusable file", detail });
      }
    });
    if (!bitmap) return;
    this.#bitmap = bitmap;
    this.#refit(file.name);
  }

  #refit(name) {
    const size = sizeFor(this.#spec, this.#bitmap);
    this.#source = fitted(this.#bitmap, { channels: this.#spec.channels, fit: this.#fit.value, ...size });
    this.#publish(name);
  }

  /** Make a sample of the model the current image. */
  async sample() {
    const seed = Math.floor(Math.random() * 1e6);
    const images = await this.#task.run("Sampling", (task) => this.#client.sample({ n: 1, seed }, task));
    if (images) this.take(images[0], `sample, seed ${seed}`);
  }

  async #download() {
    download(await pngOf(this.#subject.image), "input.png");
  }

  #publish(name = this.#subject.name) {
    if (!this.#source) return;
    this.#subject.set(this.#invert.box.checked ? inverted(this.#source) : this.#source, name);
  }

  #show() {
    const { image, name, looksInverted } = this.#subject;
    this.#canvas.hidden = this.#save.disabled = false;
    for (const canvas of [this.#canvas, this.#thumbnail]) paint(canvas, image);
    this.#name.textContent = name;
    const from = this.#bitmap ? ` from ${this.#bitmap.width} × ${this.#bitmap.height}` : "";
    this.#caption.textContent = `${name}: ${image.width} × ${image.height} ${image.channels === 1 ? "grey" : "colour"}${from}`;
    this.fitField.hidden = !this.#bitmap || Boolean(this.#spec.sizes);
    this.#hint.hidden = !looksInverted;
    const advice = this.#invert.box.checked ? "turn Invert off" : "try Invert";
    this.#hint.textContent = `The model draws on a dark background, and this image has a bright one: ${advice}.`;
    if (this.#spec.drawable) this.#caption.append(". Draw on it: strokes are white.");
    else this.#canvas.setAttribute("aria-label", `Current image, ${name}`);
  }
}
