/**
 * Images as arrays: { data: Uint8 of height * width * channels, height, width, channels }, and their ways to and from
 * the canvas.
 */

import { extent } from "./latents.js";

/** Split an array [N, H, W, C] into images. */
export function imagesOf({ shape, data }) {
  const [n, height, width, channels] = shape;
  const size = height * width * channels;
  return Array.from({ length: n }, (_, i) => ({
    data: data.subarray(i * size, (i + 1) * size),
    height,
    width,
    channels,
  }));
}

/** Return the bytes of an image as RGBA, for the canvas. */
export function rgba({ data, height, width, channels }) {
  const out = new Uint8ClampedArray(height * width * 4);
  for (let i = 0, j = 0; i < out.length; i += 4, j += channels) {
    out[i] = data[j];
    out[i + 1] = data[channels === 1 ? j : j + 1];
    out[i + 2] = data[channels === 1 ? j : j + 2];
    out[i + 3] = 255;
  }
  return new ImageData(out, width, height);
}

/** Draw an image on a canvas, in its own number of pixels. */
export function paint(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.classList.toggle("pixelated", Math.max(image.width, image.height) <= 96);
  canvas.getContext("2d").putImageData(rgba(image), 0, 0);
}

/** Return the PNG file of an image. */
export function pngOf(image) {
  const canvas = document.createElement("canvas");
  paint(canvas, image);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Return the image with every level k as 255 - k. */
export const inverted = (image) => ({ ...image, data: image.data.map((level) => 255 - level) });

/**
 * Return what a model sees of a bitmap: transparency on white, `channels` channels, `height` by `width` pixels.
 *
 * `fit` is `resize` (the whole image, distorted), `pad` (the whole image, black around it) or `crop` (its middle).
 */
export function fitted(bitmap, { channels, height, width, fit }) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, width, height);
  const [w, h] = drawnSize(bitmap, width, height, fit);
  const [x, y] = [(width - w) / 2, (height - h) / 2];
  context.fillStyle = "white";
  context.fillRect(x, y, w, h);
  context.drawImage(shrunk(bitmap, w, h), x, y, w, h);
  return { data: levels(context.getImageData(0, 0, width, height).data, channels), height, width, channels };
}

function drawnSize(bitmap, width, height, fit) {
  if (fit === "resize") return [width, height];
  const scales = [width / bitmap.width, height / bitmap.height];
  const scale = fit === "pad" ? Math.min(...scales) : Math.max(...scales);
  return [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)];
}

/** Halve a bitmap until it is less than twice as large as it is drawn: one step of smoothing would skip pixels. */
function shrunk(bitmap, width, height) {
  let source = bitmap;
  while (source.width >= 2 * width && source.height >= 2 * height) {
    const half = document.createElement("canvas");
    Object.assign(half, { width: source.width >> 1, height: source.height >> 1 });
    const context = half.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, half.width, half.height);
    source = half;
  }
  return source;
}

/** Return RGBA as grey levels by ITU-R 601, rounded as Pillow rounds them, or as RGB. */
function levels(rgbaBytes, channels) {
  const out = new Uint8Array((rgbaBytes.length / 4) * channels);
  for (let i = 0, j = 0; i < rgbaBytes.length; i += 4) {
    const [r, g, b] = [rgbaBytes[i], rgbaBytes[i + 1], rgbaBytes[i + 2]];
    if (channels === 1) out[j++] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else out.set([r, g, b], (j += 3) - 3);
  }
  return out;
}

/** Return the mean over channels of |a - b| for each pixel, in levels, and figures of all pixels. */
export function difference(a, b) {
  const { height, width, channels } = a;
  const error = new Float32Array(height * width);
  let squares = 0;
  for (let i = 0; i < a.data.length; i += 1) {
    const delta = a.data[i] - b.data[i];
    error[Math.floor(i / channels)] += Math.abs(delta) / channels;
    squares += delta * delta;
  }
  const rms = Math.sqrt(squares / a.data.length);
  return { error, height, width, rms, psnr: 20 * Math.log10(255 / rms), largest: extent(error)[1] };
}

/** Colours from no error to the largest: dark blue, teal, yellow; their lightness rises evenly. */
const RAMP = [
  [13, 16, 33],
  [22, 53, 94],
  [12, 105, 120],
  [56, 158, 118],
  [160, 201, 84],
  [252, 231, 120],
];

/** Return the colour of a number from 0 to 1 as [r, g, b]. */
export function heat(value) {
  const place = Math.min(Math.max(value, 0), 1) * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[below].map((level, i) => Math.round(level + (RAMP[below + 1][i] - level) * (place - below)));
}

/** Return values [height * width] from `lowest` to `highest` as a colour image. */
export function heatMap({ values, height, width, lowest = 0, highest }) {
  const data = new Uint8Array(height * width * 3);
  const range = highest - lowest || 1;
  values.forEach((value, i) => data.set(heat((value - lowest) / range), i * 3));
  return { data, height, width, channels: 3 };
}
