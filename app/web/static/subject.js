/** The current image: the one that all panels work on. */

const BRIGHT = 128;

/** Holds an image, its name and its posterior. The event `change` follows each new image. */
export class Subject extends EventTarget {
  #client;
  #encoded = null;
  #samplesAreDark = false;
  image = null;
  name = "";

  constructor(client) {
    super();
    this.#client = client;
  }

  /** Replace the image. */
  set(image, name) {
    Object.assign(this, { image, name });
    this.dispatchEvent(new Event("change"));
  }

  /** Return the posterior of the image. */
  async posterior(task) {
    const { image } = this;
    if (this.#encoded?.image !== image) this.#encoded = { image, posterior: await this.#client.encode(image, task) };
    return this.#encoded.posterior;
  }

  /** Learn from samples of the model which background it knows. */
  learn(samples) {
    this.#samplesAreDark = samples.every((image) => borderLevel(image) < BRIGHT);
  }

  /** Whether a grey image is likely to be the inverse of what the model was trained on: dark on a bright background. */
  get looksInverted() {
    return this.#samplesAreDark && this.image?.channels === 1 && borderLevel(this.image) >= BRIGHT;
  }
}

/** Return the mean level of the first and last row of an image. */
function borderLevel({ data, width, channels }) {
  const row = width * channels;
  const border = [...data.subarray(0, row), ...data.subarray(-row)];
  return border.reduce((sum, level) => sum + level, 0) / border.length;
}
