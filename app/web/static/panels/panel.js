/** A panel of the page: a section with a heading that is updated while it is shown. */

import { el } from "../dom.js";
import { paint } from "../pixels.js";
import { latest, Task } from "../task.js";

/** Base of the panels. A subclass overrides `update()`, which fetches and shows what the panel has. */
export class Panel {
  #shown = false;
  #stale = true;
  task = new Task();

  constructor(id, title, lead) {
    Object.assign(this, { id, title });
    this.body = el("div", { class: "panel-body" });
    this.element = el(
      "section",
      { id: `panel-${id}`, class: "panel", role: "tabpanel", "aria-labelledby": `tab-${id}`, hidden: true },
      el("header", { class: "panel-head" }, el("h2", {}, title), el("p", { class: "lead" }, lead)),
      this.body,
      this.task.element,
    );
    this.refresh = latest(() => this.update());
  }

  /** Show the panel, and update it if it is not current. */
  show() {
    this.#shown = true;
    this.element.hidden = false;
    if (this.#stale) this.#update();
  }

  hide() {
    this.#shown = false;
    this.element.hidden = true;
  }

  /** Update the panel now, or when it is shown next. */
  invalidate() {
    this.#stale = true;
    if (this.#shown) this.#update();
  }

  #update() {
    this.#stale = false;
    return this.refresh();
  }

  async update() {}
}

/** Create a picture with a caption: `show(image)` paints it. */
export function picture(caption, label = caption) {
  const canvas = el("canvas", { role: "img", "aria-label": label });
  const text = el("figcaption", {}, caption);
  return { canvas, text, element: el("figure", { class: "picture" }, canvas, text) };
}

/** Create the key of an error map: its colours from no error to the largest. */
export const ramp = () => el("span", { class: "ramp", "aria-hidden": "true" });

/** Create a list of terms and figures: `show([[term, figure], …])`. */
export function figures() {
  const element = el("dl", { class: "figures" });
  const show = (entries) =>
    element.replaceChildren(...entries.map(([term, figure]) => el("div", {}, el("dt", {}, term), el("dd", {}, figure))));
  return { element, show };
}

/** Show images in a row, each a button with its text below. Buttons stay when their images change. */
export function fillStrip(strip, images, texts, onclick) {
  while (strip.children.length > images.length) strip.lastChild.remove();
  images.forEach((image, i) => {
    const tile = strip.children[i] ?? strip.appendChild(emptyTile());
    tile.onclick = onclick(i);
    tile.lastChild.textContent = texts[i];
    paint(tile.firstChild, image);
  });
}

const emptyTile = () => el("button", { type: "button", class: "tile" }, el("canvas", { "aria-hidden": "true" }), el("small"));

/** Text for a panel that needs an image while there is none. */
export const needsImage = ({ drawable }) => el("p", { class: "empty" }, `No image yet. Choose, drop${drawable ? ", paste or draw" : " or paste"} one.`);
