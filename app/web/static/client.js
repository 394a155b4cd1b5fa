/** The endpoints as functions of images and latents. */

import { readNpy, writeNpy } from "./npy.js";
import { imagesOf, pngOf } from "./pixels.js";
import { joined } from "./latents.js";

const NPY = "application/x-npy";

/** Methods take the `task` that they are part of: its signal ends their requests, and it shows their retries. */
export class Client {
  constructor(api) {
    this.api = api;
  }

  /** Return what is served, as `GET /model` has it. */
  async model(task) {
    return (await this.api.call("model", task)).json();
  }

  /** Return the records of training and evaluation. */
  async history(task) {
    return (await (await this.api.call("model/history", task)).json()).metrics;
  }

  /** Return n images from the prior. */
  async sample({ n, seed, temperature }, task) {
    return this.#images(this.api.call("sample", { ...task, query: { n, seed, temperature }, accept: NPY }));
  }

  /** Return mean and logvar of the posterior of an image, flat, with their shape; logvar may be null. */
  async encode(image, task) {
    return (await this.#encoded(await pngOf(image), "image/png", task))[0];
  }

  /** Return the posteriors of many images. */
  async encodeAll(images, task) {
    const parts = new FormData();
    for (const image of images) parts.append("images", await pngOf(image), "image.png");
    return this.#encoded(parts, undefined, task);
  }

  /** Return the images of latents, which are flat arrays of the same shape. */
  async decode(latents, shape, task) {
    const body = writeNpy(joined(latents), [latents.length, ...shape]);
    return this.#images(this.api.call("decode", { ...task, body, type: NPY, accept: NPY }));
  }

  /** Return an image encoded and decoded. */
  async reconstruct(image, task) {
    const body = await pngOf(image);
    const [answer] = await this.#images(this.api.call("reconstruct", { ...task, body, type: "image/png", accept: NPY }));
    if (answer.width === image.width && answer.height === image.height) return answer;
    const [sent, got] = [image, answer].map(({ width, height }) => `${width} × ${height}`);
    throw new Error(`the service answered an image of ${sent} pixels with a reconstruction of ${got}`);
  }

  /** Return the scores of an image. */
  async score(image, { samples, seed }, task) {
    const query = { samples, seed };
    const response = await this.api.call("score", { ...task, query, body: await pngOf(image), type: "image/png" });
    return (await response.json()).scores[0];
  }

  async #images(response) {
    return imagesOf(readNpy(await (await response).arrayBuffer()));
  }

  async #encoded(body, type, task) {
    const { latents, shape } = await (await this.api.call("encode", { ...task, body, type })).json();
    return latents.map(({ mean, logvar }) => ({ mean: flat(mean), logvar: logvar && flat(logvar), shape }));
  }
}

const flat = (values) => Float32Array.from(values.flat(Infinity));
