/** What the served model is and can do, from `GET /model`; fields that a service does not send mean a full VAE. */

const LARGEST_PAD = 64;
const LARGEST_SIDE = 512;

/** Read the response of `GET /model`. */
export function specOf(model) {
  const [channels, height, width] = model.image_shape;
  const latentShape = model.latent_shape;
  const spec = {
    model,
    identity: model.model,
    channels,
    height,
    width,
    latentShape,
    factor: factorOf(model),
    isSpatial: latentShape.length > 1,
    likelihood: model.likelihood ?? null,
    /** Return why an operation is impossible, or "" if it is possible. */
    refusal: (operation) => refusalOf(model.capabilities, operation),
  };
  spec.drawable = channels === 1 && !spec.factor && Math.max(height, width) <= LARGEST_PAD;
  return spec;
}

/** Return the size at which the model takes a bitmap: its own, or that of the bitmap in multiples of the factor. */
export function sizeFor({ factor, height, width }, bitmap) {
  if (!factor) return { height, width };
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.height, bitmap.width));
  const side = (length) => Math.max(factor, Math.floor((length * scale) / factor) * factor);
  return { height: side(bitmap.height), width: side(bitmap.width) };
}

function factorOf({ sizes, image_sizes: imageSizes }) {
  const rule = sizes ?? imageSizes;
  return rule?.factor ?? rule?.multiple_of ?? 0;
}

function refusalOf(capabilities, operation) {
  const entry = Array.isArray(capabilities) ? capabilities.includes(operation) : capabilities?.[operation];
  if (entry == null || entry === true) return "";
  const reason = typeof entry === "string" ? entry : entry.reason;
  return reason || (entry.supported === true ? "" : `this model does not support ${operation}`);
}
