/** Elements of the document, and numbers as text. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an HTML element. Functions named on… are event listeners, `true` is an attribute without a value, and false,
 * null and undefined leave an attribute out.
 */
export function el(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** Create an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

let lastId = 0;

/** Return an id that no other element has. */
export function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/** Label a control: the text stands above it. */
export function field(label, control, hint) {
  control.id ||= uniqueId("field");
  const note = hint && el("span", { class: "hint", id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, note);
}

/** Create a switch: a check box that looks like one. */
export function toggle(label, onchange) {
  const box = el("input", { type: "checkbox", role: "switch", onchange: () => onchange(box.checked) });
  return { box, element: el("label", { class: "switch" }, box, el("span", {}, label)) };
}

/** Write a number with a sign of its own width and so many digits after the point. */
export function number(value, digits = 2) {
  if (value == null || Number.isNaN(value)) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

/** Write a count: 1,552,897. */
export const count = (value) => value.toLocaleString("en");

/** Write a count in words: 1.55 million. */
export function rounded(value) {
  if (value >= 1e9) return `${number(value / 1e9)} billion`;
  if (value >= 1e6) return `${number(value / 1e6)} million`;
  return count(value);
}

/** Join the sizes of a shape: 1 × 28 × 28. */
export const sizes = (shape) => shape.join("\u00a0×\u00a0");

/** Save a blob as a file. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Call `draw(width)` with the width of an element now and whenever it changes. */
export function responsive(element, draw) {
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && now !== width) draw((width = now));
  }).observe(element);
  return () => width && draw(width);
}
