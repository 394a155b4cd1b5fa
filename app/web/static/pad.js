/** Drawing on a canvas in the pixels of a small grey image, with a pointer or the keyboard. */

const RADIUS = 0.042;
/** Radius of the brush in sides of the image; at 28 pixels a stroke is about as wide as those of MNIST. */

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Makes a canvas a drawing pad. `read()` returns the image that a stroke begins with, and `draw(image)` gets the image
 * after each movement. Keys: arrows move the pen, Shift with arrows draws, Space sets a dot.
 */
export class Pad {
  #canvas;
  #read;
  #draw;
  #image = null;
  #place = null;

  constructor(canvas, { read, draw }) {
    Object.assign(canvas, { tabIndex: 0 });
    canvas.classList.add("pad");
    [this.#canvas, this.#read, this.#draw] = [canvas, read, draw];
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#continue(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.#image = null));
    canvas.addEventListener("keydown", (event) => this.#press(event));
  }

  #begin(event) {
    if (event.button) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#image = this.#copy();
    this.#place = this.#placeOf(event);
    this.#stroke(this.#place);
  }

  #continue(event) {
    if (!this.#image) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) this.#stroke(this.#placeOf(part));
  }

  #press(event) {
    const step = STEPS[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    const { width, height } = this.#canvas;
    const [x, y] = this.#place ?? [width / 2, height / 2];
    const [dx, dy] = step ?? [0, 0];
    const next = [clamp(x + dx, 0, width), clamp(y + dy, 0, height)];
    this.#place ??= next;
    this.#image = this.#copy();
    if (event.shiftKey || !step) this.#stroke(next);
    else this.#place = next;
    this.#image = null;
  }

  #copy() {
    const image = this.#read();
    return { ...image, data: image.data.slice() };
  }

  #placeOf(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  /** Draw a soft line from the last place to the next. */
  #stroke(next) {
    const radius = Math.max(0.7, RADIUS * this.#canvas.width);
    const { data, width, height } = this.#image;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const far = distance([x + 0.5, y + 0.5], this.#place, next) - radius;
        const level = Math.round(255 * clamp(0.75 - far, 0, 1));
        if (level > data[y * width + x]) data[y * width + x] = level;
      }
    }
    this.#place = next;
    this.#image = { ...this.#image, data: data.slice() };
    this.#draw(this.#image);
  }
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Return the distance of a point from the segment from a to b. */
function distance([x, y], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const along = clamp(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1), 0, 1);
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}
