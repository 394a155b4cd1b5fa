/** Charts as SVG: the posterior of a latent, a value in a distribution, and curves. */

import { count, el, number, responsive, svg } from "./dom.js";

const LEFT = 52;
const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, y1, x2, y2 });
const text = (kind, x, y, content, anchor = "middle") => svg("text", { class: kind, x, y, "text-anchor": anchor }, content);
const rectangle = (kind, x, y, width, height) => svg("rect", { class: kind, x, y, width, height: Math.max(0, height) });

const clear = (root, width, height, label) => {
  root.replaceChildren();
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": label })) {
    root.setAttribute(name, value);
  }
};

/** Return a function of a number in [from, to] that gives a place in [start, end]. */
const scale = (from, to, start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);

/** Return round numbers from 0 or below up to a limit, about as many as asked for. */
export function ticks(from, to, about = 4) {
  const raw = (to - from) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= raw) ?? 10);
  const first = Math.ceil(from / step - 1e-9);
  return Array.from({ length: Math.floor(to / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

/** Return a tick as a text that fits beside the chart: 0.05, 250, −5,000, 20K. */
function tickText(value) {
  if (Math.abs(value) >= 1e4) return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 2 }).replace("-", "−");
  return number(value, Math.abs(value) >= 10 || Number.isInteger(value) ? 0 : Math.abs(value) < 0.1 ? 2 : 1);
}

const MEAN = { top: 10, height: 150 };
const KL = { top: 188, height: 76 };
const HEIGHT = 286;
const MIN_PITCH = 8;

/**
 * Bars of the posterior means with their standard deviations, above bars of the KL.
 *
 * `element` is the chart; `show({ mean, sd, kl, order })` draws it, without sd and kl for a deterministic encoder.
 * `point(unit)` is called for the unit under the pointer, or with null, and `pick(unit)` for one that is clicked.
 */
export function posteriorChart({ point, pick }) {
  const root = svg("svg", { class: "chart", role: "img" });
  const element = el("div", { class: "chart-scroll", role: "group", "aria-label": "Posterior of each unit", tabindex: "0" }, root);
  let data = null;
  let columns = null;
  const redraw = responsive(element, (width) => data && (columns = drawPosterior(root, data, width)));
  const unitAt = (event) => columns?.unitAt(event.clientX - root.getBoundingClientRect().left) ?? null;
  root.addEventListener("pointermove", (event) => {
    const unit = unitAt(event);
    columns?.mark(unit);
    point(unit);
  });
  root.addEventListener("pointerleave", () => (columns?.mark(null), point(null)));
  root.addEventListener("click", (event) => unitAt(event) !== null && pick(unitAt(event)));
  return { element, show: (next) => ((data = next), redraw()) };
}

function drawPosterior(root, data, available) {
  const { mean, kl, order } = data;
  const pitch = Math.max(MIN_PITCH, (available - LEFT - 4) / order.length);
  const width = Math.max(available, LEFT + 4 + pitch * order.length);
  const height = kl ? HEIGHT : MEAN.top + MEAN.height + 22;
  clear(root, width, height, `Posterior of ${mean.length} units`);
  const columnAt = (i) => LEFT + (i + 0.5) * pitch;
  const mark = root.appendChild(rectangle("column-mark", 0, 0, pitch, height - 18));
  mark.setAttribute("visibility", "hidden");
  drawMeans(root, data, columnAt, pitch, width);
  if (kl) drawKl(root, data, columnAt, pitch, width);
  const every = Math.ceil(26 / pitch);
  order.forEach((unit, i) => i % every || root.append(text("tick", columnAt(i), height - 4, String(unit))));
  root.append(text("tick", 0, height - 4, "unit", "start"));
  return {
    unitAt: (x) => order[Math.floor((x - LEFT) / pitch)] ?? null,
    mark: (unit) => {
      const i = order.indexOf(unit);
      mark.setAttribute("visibility", i < 0 ? "hidden" : "visible");
      mark.setAttribute("x", columnAt(Math.max(i, 0)) - pitch / 2);
    },
  };
}

function drawMeans(root, { mean, sd, order }, columnAt, pitch, width) {
  const reach = Math.max(2, ...order.map((unit) => Math.abs(mean[unit]) + (sd ? sd[unit] : 0)));
  const y = scale(-reach, reach, MEAN.top + MEAN.height, MEAN.top);
  root.append(rectangle("prior-band", LEFT, y(1), width - LEFT, y(-1) - y(1)));
  for (const tick of ticks(-reach, reach)) {
    root.append(line(tick ? "grid" : "axis", LEFT, y(tick), width, y(tick)));
    root.append(text("tick", LEFT - 8, y(tick) + 4, tickText(tick), "end"));
  }
  const thick = Math.min(pitch * 0.62, 18);
  order.forEach((unit, i) => {
    const [from, to] = [y(Math.max(0, mean[unit])), y(Math.min(0, mean[unit]))];
    root.append(rectangle("bar", columnAt(i) - thick / 2, from, thick, Math.max(1, to - from)));
    if (sd) root.append(line("whisker", columnAt(i), y(mean[unit] - sd[unit]), columnAt(i), y(mean[unit] + sd[unit])));
  });
}

function drawKl(root, { kl, order }, columnAt, pitch, width) {
  const most = Math.max(0.5, ...kl);
  const y = scale(0, most, KL.top + KL.height, KL.top);
  for (const tick of ticks(0, most, 3)) {
    root.append(line(tick ? "grid" : "axis", LEFT, y(tick), width, y(tick)));
    root.append(text("tick", LEFT - 8, y(tick) + 4, tickText(tick), "end"));
  }
  root.append(text("tick", LEFT + 2, KL.top - 10, "KL, nats", "start"));
  const thick = Math.min(pitch * 0.62, 18);
  order.forEach((unit, i) => root.append(rectangle("bar kl", columnAt(i) - thick / 2, y(kl[unit]), thick, y(0) - y(kl[unit]))));
}

const BINS = 48;

/** Return the share of values in each of `BINS` intervals, from 101 percentiles, and the ends of the whole. */
export function histogram(percentiles) {
  const [from, to] = [percentiles[0], percentiles[100]];
  const bins = new Float64Array(BINS);
  const width = (to - from) / BINS || 1;
  for (let i = 0; i < 100; i += 1) {
    const [low, high] = [percentiles[i], Math.max(percentiles[i + 1], percentiles[i] + 1e-9)];
    for (let bin = Math.floor((low - from) / width); bin < BINS; bin += 1) {
      const overlap = Math.min(high, from + (bin + 1) * width) - Math.max(low, from + bin * width);
      if (overlap <= 0) break;
      bins[Math.max(bin, 0)] += overlap / (high - low) / 100;
    }
  }
  return { bins, from, to };
}

/** The distribution of the reference's ELBOs, and the place of one value in it. */
export function distributionChart() {
  const root = svg("svg", { class: "chart", role: "img" });
  const element = el("div", { class: "chart-fit" }, root);
  let data = null;
  const redraw = responsive(element, (width) => data && drawDistribution(root, data, width));
  return { element, show: (percentiles, value) => ((data = { percentiles, value }), redraw()) };
}

function drawDistribution(root, { percentiles, value }, width) {
  const { bins, from, to } = histogram(percentiles);
  const [top, bottom] = [26, 150];
  clear(root, width, 182, `ELBO ${number(value, 1)} nats among those of the reference, ${number(from, 0)} to ${number(to, 0)}`);
  const x = scale(from, to, 12, width - 12);
  const y = scale(0, Math.max(...bins), bottom, top + 8);
  const step = (width - 24) / BINS;
  bins.forEach((share, i) => {
    const at = from + ((i + 0.5) * (to - from)) / BINS;
    root.append(rectangle(at <= value ? "bar below" : "bar above", 12 + i * step + 0.5, y(share), step - 1, bottom - y(share)));
  });
  root.append(line("axis", 12, bottom, width - 12, bottom));
  for (const tick of ticks(from, to, 5)) root.append(text("tick", x(tick), bottom + 16, tickText(tick)));
  root.append(text("tick", width - 12, bottom + 31, "ELBO, nats", "end"));
  drawPlace(root, Math.min(Math.max(x(value), 12), width - 12), value, { from, to, top, bottom, width });
}

function drawPlace(root, place, value, { from, to, top, bottom, width }) {
  const arrow = value < from ? "← " : value > to ? " →" : "";
  const label = value < from ? `${arrow}${number(value, 1)}` : `${number(value, 1)}${arrow}`;
  const anchor = place < 60 ? "start" : place > width - 60 ? "end" : "middle";
  root.append(line("place", place, top, place, bottom), text("place-label", place, top - 8, label, anchor));
}

/** Curves of several series over the same numbers: `show([{ name, kind, points: [[x, y], …] }])`. */
export function curveChart(label) {
  const root = svg("svg", { class: "chart", role: "img" });
  const element = el("div", { class: "chart-fit" }, root);
  let data = null;
  const redraw = responsive(element, (width) => data && drawCurves(root, data, width, label));
  return { element, show: (series) => ((data = series), redraw()) };
}

function drawCurves(root, series, width, label) {
  const height = 220;
  clear(root, width, height, label);
  const points = series.flatMap((one) => one.points);
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y).sort((a, b) => a - b)];
  const lowest = ys[Math.floor(ys.length * 0.03)];
  const x = scale(Math.min(...xs), Math.max(...xs), LEFT + 6, width - 8);
  const y = scale(lowest, ys.at(-1), height - 30, 12);
  for (const tick of ticks(lowest, ys.at(-1), 4)) {
    root.append(line("grid", LEFT, y(tick), width, y(tick)), text("tick", LEFT - 8, y(tick) + 4, tickText(tick), "end"));
  }
  for (const tick of ticks(Math.min(...xs), Math.max(...xs), 5)) root.append(text("tick", x(tick), height - 10, count(tick)));
  for (const { kind, points: own } of series) {
    const path = own.filter(([, value]) => value >= lowest).map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`);
    root.append(svg("path", { class: `curve ${kind}`, d: path.join("") }));
  }
}
