/** Mathematics of latents, which are Float32Arrays: Gaussians, distances and ways between two points. */

/** Return KL(N(mean, exp(logvar)) || N(0, 1)) of each value, in nats. */
export const klOf = (mean, logvar) => mean.map((m, i) => 0.5 * (m * m + Math.exp(logvar[i]) - 1 - logvar[i]));

/** Return the standard deviations. */
export const deviations = (logvar) => logvar.map((value) => Math.exp(value / 2));

/** Draw a standard normal number (Box and Muller). */
export function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

/** Draw from N(mean, sd²). */
export const drawn = (mean, sd) => mean.map((m, i) => m + sd[i] * normal());

/** Return the point at the fraction t of the straight line from a to b. */
export const lerp = (a, b, t) => a.map((value, i) => value + (b[i] - value) * t);

/** Return the point at the fraction t of the great circle from a to b (Shoemake, 1985); a line if they are parallel. */
export function slerp(a, b, t) {
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
  if (!(Math.sin(angle) > 1e-4)) return lerp(a, b, t);
  const [u, v] = [Math.sin((1 - t) * angle), Math.sin(t * angle)].map((part) => part / Math.sin(angle));
  return a.map((value, i) => u * value + v * b[i]);
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** Return the numbers 0 to n - 1, those with the largest values first. */
export function descending(values) {
  return Array.from(values.keys()).sort((i, j) => values[j] - values[i] || i - j);
}

/** Return the smallest and the largest of any number of values. */
export function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

/** Return the sum. */
export const total = (values) => values.reduce((sum, value) => sum + value, 0);

/** Return latents one after another in one array. */
export function joined(latents) {
  const size = latents[0].length;
  const all = new Float32Array(latents.length * size);
  latents.forEach((latent, i) => all.set(latent, i * size));
  return all;
}

/** Return the values of one channel of a latent [C, H, W]. */
export function channel(latent, [, height, width], index) {
  return latent.subarray(index * height * width, (index + 1) * height * width);
}
