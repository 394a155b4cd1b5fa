/** What the served model is and can do, from `GET /model`; fields that a service does not send mean a full VAE. */

const LARGEST_PAD = 64;
const LARGE_SIDE = 96;
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
    /** The rule of the image sizes { factor, minimum, maximum }; null for a model of one size. */
    sizes: model.image_sizes ?? null,
    isSpatial: latentShape.length > 1,
    likelihood: model.likelihood ?? null,
    /** Return why the model lacks a capability (sample, samples, elbo), or "" if it has it. */
    refusal: (capability) => refusalOf(model.capabilities?.[capability]),
  };
  spec.drawable = channels === 1 && !spec.sizes && Math.max(height, width) <= LARGEST_PAD;
  return spec;
}

/** Whether an image, or that of a model, is too large to decode many at once. */
export const isLarge = ({ height, width }) => Math.max(height, width) > LARGE_SIDE;

/** Return the size at which the model takes a bitmap: its own, or that of the bitmap in multiples of the factor. */
export function sizeFor({ sizes, height, width }, bitmap) {
  if (!sizes) return { height, width };
  const { factor, minimum, maximum } = sizes;
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.height, bitmap.width));
  const side = (length) => Math.min(Math.max(Math.floor((length * scale) / factor) * factor, minimum), maximum);
  return { height: side(bitmap.height), width: side(bitmap.width) };
}

function refusalOf(entry) {
  return entry?.supported === false ? (entry.reason ?? "this model cannot do it") : "";
}
