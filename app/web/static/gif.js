/** Animations as GIF files (GIF89a): at most 256 colours in all, compressed by LZW. */

const COLOURS = 256;
const MAX_CODES = 4096;
const SAMPLED_PIXELS = 60_000;

/** Return the GIF of images of one size; `delays` are the hundredths of a second that each is shown for. */
export function gifOf(images, delays) {
  const { width, height } = images[0];
  const palette = images[0].channels === 1 ? greys() : medianCut(images);
  const indexOf = images[0].channels === 1 ? null : nearestIn(palette);
  const bytes = [...ascii("GIF89a"), ...short(width), ...short(height), 0xf7, 0, 0, ...palette.flat()];
  bytes.push(0x21, 0xff, 11, ...ascii("NETSCAPE2.0"), 3, 1, 0, 0, 0);
  const parts = [new Uint8Array(bytes)];
  images.forEach((image, i) => {
    const head = [0x21, 0xf9, 4, 0, ...short(delays[i]), 0, 0, 0x2c, 0, 0, 0, 0, ...short(width), ...short(height), 0, 8];
    parts.push(new Uint8Array(head), blocks(lzw(indexOf ? indices(image, indexOf) : image.data)));
  });
  return new Blob([...parts, new Uint8Array([0x3b])], { type: "image/gif" });
}

const ascii = (text) => [...text].map((letter) => letter.charCodeAt(0));
const short = (value) => [value & 255, value >> 8];
const greys = () => Array.from({ length: COLOURS }, (_, level) => [level, level, level]);

/** Split the colours of images into 256 boxes with about as many pixels each (Heckbert, 1982); returns their means. */
function medianCut(images) {
  let boxes = [colourSample(images)];
  while (boxes.length < COLOURS) {
    const ranges = boxes.map(widest);
    const next = ranges.reduce((best, range, i) => (range.size * boxes[i].length > ranges[best].size * boxes[best].length ? i : best), 0);
    if (!ranges[next].size) break;
    const sorted = boxes[next].toSorted((a, b) => a[ranges[next].axis] - b[ranges[next].axis]);
    boxes = [...boxes.toSpliced(next, 1), sorted.slice(0, sorted.length >> 1), sorted.slice(sorted.length >> 1)];
  }
  const mean = (box, axis) => Math.round(box.reduce((sum, colour) => sum + colour[axis], 0) / box.length);
  const palette = boxes.map((box) => [0, 1, 2].map((axis) => mean(box, axis)));
  return [...palette, ...Array.from({ length: COLOURS - palette.length }, () => [0, 0, 0])];
}

function colourSample(images) {
  const pixels = images.length * images[0].width * images[0].height;
  const step = Math.max(1, Math.floor(pixels / SAMPLED_PIXELS)) * 3;
  return images.flatMap(({ data }) => Array.from({ length: Math.floor(data.length / step) }, (_, i) => [...data.subarray(i * step, i * step + 3)]));
}

function widest(box) {
  const ranges = [0, 1, 2].map((axis) => {
    const levels = box.map((colour) => colour[axis]);
    return { axis, size: levels.reduce((a, b) => Math.max(a, b)) - levels.reduce((a, b) => Math.min(a, b)) };
  });
  return ranges.reduce((best, range) => (range.size > best.size ? range : best));
}

/** Return a function that finds the nearest colour of a palette, and remembers it for colours that are alike. */
function nearestIn(palette) {
  const known = new Map();
  return (r, g, b) => {
    const key = ((r >> 2) << 12) | ((g >> 2) << 6) | (b >> 2);
    if (!known.has(key)) {
      const far = ([pr, pg, pb]) => (pr - r) ** 2 + (pg - g) ** 2 + (pb - b) ** 2;
      known.set(key, palette.reduce((best, colour, i) => (far(colour) < far(palette[best]) ? i : best), 0));
    }
    return known.get(key);
  };
}

function indices({ data }, indexOf) {
  return Uint8Array.from({ length: data.length / 3 }, (_, i) => indexOf(data[3 * i], data[3 * i + 1], data[3 * i + 2]));
}

/** Compress indices of 8 bits by LZW with codes of 9 to 12 bits, as GIF has them. */
function lzw(values) {
  const [clear, end] = [COLOURS, COLOURS + 1];
  const out = [];
  let [codes, next, bits, buffer, filled] = [new Map(), end + 1, 9, 0, 0];
  const write = (code) => {
    buffer |= code << filled;
    for (filled += bits; filled >= 8; filled -= 8, buffer >>>= 8) out.push(buffer & 255);
  };
  write(clear);
  let prefix = values[0];
  for (let i = 1; i < values.length; i += 1) {
    const key = (prefix << 8) | values[i];
    if (codes.has(key)) {
      prefix = codes.get(key);
      continue;
    }
    write(prefix);
    prefix = values[i];
    if (next < MAX_CODES) {
      codes.set(key, next);
      if (next === 1 << bits) bits += 1;
      next += 1;
    } else {
      write(clear);
      [codes, next, bits] = [new Map(), end + 1, 9];
    }
  }
  write(prefix);
  write(end);
  if (filled) out.push(buffer & 255);
  return out;
}

/** Split data into blocks of at most 255 bytes, each behind its length. */
function blocks(data) {
  const out = [];
  for (let i = 0; i < data.length; i += 255) {
    const block = data.slice(i, i + 255);
    out.push(block.length, ...block);
  }
  return new Uint8Array([...out, 0]);
}
