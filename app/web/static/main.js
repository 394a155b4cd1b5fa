/** The page: reads what is served, and builds the panels for it. */

import { Api } from "./api.js";
import { Client } from "./client.js";
import { Curl } from "./curl.js";
import { el, number } from "./dom.js";
import { EncodePanel } from "./panels/encode.js";
import { ExplorePanel } from "./panels/explore.js";
import { ExploreChannelsPanel } from "./panels/explore_channels.js";
import { InterpolatePanel } from "./panels/interpolate.js";
import { ModelPanel } from "./panels/model.js";
import { SamplePanel } from "./panels/sample.js";
import { ScorePanel } from "./panels/score.js";
import { Picker } from "./picker.js";
import { specOf } from "./spec.js";
import { Subject } from "./subject.js";
import { Task, work } from "./task.js";

const find = (id) => document.getElementById(id);

const api = new Api(askForKey);
const client = new Client(api);
api.addEventListener("answered", ({ detail }) => showLast(detail));
work.addEventListener("change", () => (document.body.dataset.work = work.underWay));
start();

async function start() {
  const task = new Task();
  find("main").replaceChildren(task.element);
  const model = await task.run("Reading the model", (running) => client.model(running));
  if (!model) return;
  const spec = specOf(model);
  showModel(spec);
  api.addEventListener("answered", ({ detail }) => compareModel(spec, detail.model));
  const subject = new Subject(client);
  const picker = new Picker({ spec, client, subject });
  const context = { client, curl: new Curl(api), picker, spec, subject };
  context.explore = (unit) => {
    location.hash = "explore";
    tabs.panels.explore.select(unit);
  };
  const tabs = buildTabs(panelsFor(spec).map((panel) => new panel(context)));
  find("main").prepend(el("div", { class: "workbench" }, picker.element, el("div", { class: "panels" }, tabs.elements)));
  const first = tabs.follow();
  if (first.id !== "sample" && !spec.refusal("sample")) picker.sample();
}

function panelsFor(spec) {
  const explore = spec.isSpatial ? ExploreChannelsPanel : ExplorePanel;
  const panels = [EncodePanel, explore, InterpolatePanel, ScorePanel, ModelPanel];
  return spec.refusal("sample") ? panels : [SamplePanel, ...panels];
}

/** Build the tabs of panels; the fragment of the address names the one that is shown. */
function buildTabs(panels) {
  const byId = Object.fromEntries(panels.map((panel) => [panel.id, panel]));
  const tabs = panels.map(({ id, title }) =>
    el("a", { id: `tab-${id}`, href: `#${id}`, role: "tab", "aria-controls": `panel-${id}` }, title.split(" ")[0]));
  const reveal = () => tabs.find((tab) => !tab.tabIndex)?.scrollIntoView({ block: "nearest", inline: "center" });
  const follow = () => {
    const shown = byId[location.hash.slice(1)] ?? panels[0];
    document.body.dataset.panel = shown.id;
    panels.forEach((panel, i) => {
      tabs[i].setAttribute("aria-selected", String(panel === shown));
      tabs[i].tabIndex = panel === shown ? 0 : -1;
      if (panel !== shown) panel.hide();
    });
    reveal();
    scrollTo(0, 0);
    shown.show();
    return shown;
  };
  find("tabs").append(...tabs);
  find("tabs").addEventListener("keydown", (event) => moveFocus(event, tabs));
  addEventListener("hashchange", follow);
  new ResizeObserver(reveal).observe(find("tabs"));
  return { panels: byId, elements: panels.map((panel) => panel.element), follow };
}

function moveFocus(event, tabs) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.focus();
  next.click();
}

function showModel({ identity, model }) {
  document.title = `${identity.split(":")[0]} – VAE service`;
  find("identity").textContent = identity;
  find("where").textContent = [model.device, model.runtime].filter(Boolean).join(", ");
}

/** Report that responses come from another model than the one that the page was built for. */
function compareModel({ identity }, model) {
  if (model) find("changed").hidden = model === identity;
}

/** Show the last response: its request, its status, and the times that the service reports. */
function showLast({ method, target, status, milliseconds, timing }) {
  const stages = [...timing.matchAll(/(\w+);dur=([\d.]+)/g)].filter(([, , time]) => Number(time) > 0);
  const times = stages.map(([, stage, time]) => `${stage} ${number(Number(time), 1)}`).join(", ");
  const text = `${method} ${target}  ${status}  ${number(milliseconds, 0)} ms${times ? `  (${times} ms)` : ""}`;
  find("last").textContent = text;
}

/** Ask for an API key, or for another one than was refused; returns null if the dialog is closed. */
function askForKey(isRefused) {
  const dialog = find("key-dialog");
  const input = find("key");
  find("key-detail").textContent = isRefused ? "The service does not know this key." : "The service asks for a key.";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    find("key-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close("use");
    };
    dialog.onclose = () => resolve(dialog.returnValue === "use" ? input.value.trim() : null);
  });
}

find("load-again").addEventListener("click", () => location.reload());
find("key-cancel").addEventListener("click", () => find("key-dialog").close());
