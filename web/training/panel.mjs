// The panel on Train LoRA: how far the run is, its curves, its samples, and what can be asked of it. It shows the run of
// its node, whoever began it and when: after a reload, in a second tab, and while ComfyUI itself still prepares it.
import { api } from "../../../scripts/api.js";
import { ask, dress, element, fit } from "../common.js";
import { phaseOf } from "../background/row.mjs";
import { giveWay } from "../estimate.js";
import { place } from "../graph.js";
import { t } from "../text.js";
import { compare } from "./compare.mjs";
import { controls } from "./controls.mjs";
import { figures } from "./figures.mjs";
import { progress } from "./progress.mjs";
import { ENDS, Story } from "./story.mjs";
import { strip } from "./strip.mjs";
import { STYLE } from "./style.mjs";
import { words } from "./words.mjs";

const EVERY = 200; // ms between two drawings, at least
const SILENCE = 30_000; // ms without a word of a run, until it is asked what has become of it
const SMALL = 90; // px: a panel that is narrower on the screen cannot be read, and is not drawn
const WIDE = 400; // px of the node
const CANVAS_PICTURE = "$$canvas-image-preview"; // the widget in which the classic renderer shows a node's pictures

const panels = new Set();

api.addEventListener("darkroom.run", ({ detail }) => panels.forEach((one) => one.hear(detail)));
// What was said meanwhile is lost.
api.addEventListener("reconnected", () => {
  asking = null;
  panels.forEach((one) => { one.load(); one.find(); });
});
api.addEventListener("promptQueued", () => panels.forEach((one) => one.queued(true)));
// One that trains in the background may die without a word of its own.
api.addEventListener("darkroom.queue", () => panels.forEach((one) => { if (one.story.running) one.load(); }));
for (const event of ["execution_success", "execution_error", "execution_interrupted"]) {
  api.addEventListener(event, () => panels.forEach((one) => one.queued(false)));
}
api.addEventListener("execution_cached", ({ detail }) => panels.forEach((one) => {
  if (detail.nodes?.map(String).includes(one.at?.node)) one.queued(false);
}));
api.addEventListener("status", ({ detail }) => {
  if (detail?.exec_info?.queue_remaining === 0) panels.forEach((one) => one.queued(false));
});
setInterval(() => panels.forEach((one) => one.tick()), 1000);

// Puts a panel into a place on a node; what is returned takes it away again, and hears what the node has said.
export function mount(node, inside) {
  dress("darkroom-training-style", STYLE);
  const one = new Panel(node, inside);
  panels.add(one);
  one.tick();
  return one;
}

class Panel {
  constructor(node, inside) {
    this.node = node;
    this.inside = inside;
    this.at = null; // {workflow, node}: where it is
    this.run = ""; // the run's id
    this.story = new Story();
    this.host = null; // what ComfyUI itself does, a Phase; undefined: not known yet
    this.trial = ""; // which of several runs of the node this is, in words; undefined: not known yet
    this.waits = 0; // since when it is queued, in ms; 0: it is not
    this.failure = "";
    this.early = false; // whether what failed had come to no run
    this.said = []; // lines that the node has said
    this.news = Date.now(); // when the run was heard of last
    this.loading = null;
    this.later = []; // lines that came while the story was asked for
    this.timer = 0;
    this.pictured = []; // what of the samples is on the page
    this.seen = false;
    this.build();
    this.watching = new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen) this.schedule();
    });
    this.watching.observe(inside);
    this.told = () => this.schedule();
    this.holder = inside.parentElement;
    this.holder?.addEventListener("darkroom-told", this.told);
  }

  destroy() {
    panels.delete(this);
    this.gone = true;
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    this.watching.disconnect();
    this.holder?.removeEventListener("darkroom-told", this.told);
    this.figures.destroy();
    this.close?.();
    this.root.remove();
  }

  // ---------------------------------------------------------------- what it hears

  // Where the node is may change: it is copied, put into a subgraph, its workflow is opened.
  tick() {
    const at = this.node.graph ? place(this.node) : null;
    if (at && (at.workflow !== this.at?.workflow || at.node !== this.at?.node)) {
      this.at = at;
      this.follow("");
      this.find();
    }
    if (document.hidden || !this.seen) return;
    if (this.story.running && Date.now() - this.news > SILENCE) this.load();
    if (this.dirty || this.active() || this.wasActive) this.schedule();
  }

  // The run that this node shows, and what is being done for it. What it hears while it asks is newer than the answer.
  async find() {
    const { at, run } = this;
    if (!at) return;
    this.host = this.trial = undefined;
    const { nodes } = await shownIn(at.workflow).catch(() => ({ nodes: {} }));
    if (this.gone || at !== this.at) return;
    const mine = nodes[at.node];
    if (mine?.run && run === this.run) this.follow(mine.run);
    if (this.host === undefined) this.host = mine?.phase ?? null;
    this.trial ??= mine?.trial ?? "";
    this.schedule();
  }

  follow(run) {
    if (run === this.run) return;
    this.run = run;
    this.story = new Story();
    this.load();
  }

  // Asks for the whole story.
  async load() {
    if (!this.run || this.loading) return;
    const run = this.run;
    this.news = Date.now();
    this.loading = ask(`/runs/${encodeURIComponent(run)}/story`).catch(() => null); // one that is just being planned
    const answer = await this.loading;
    this.loading = null;
    if (this.gone) return;
    if (run !== this.run) {
      this.load();
      return;
    }
    if (answer) this.story.load(answer);
    const later = this.later.splice(0);
    if (!this.story.take(later) && answer) this.load();
    if (this.host && this.story.phase?.t >= this.host.t) this.host = null; // the worker has spoken since
    this.schedule();
  }

  hear({ run, workflow, node, events }) {
    if (workflow !== this.at?.workflow || node !== this.at?.node) return;
    if (run) this.follow(run);
    this.waits = 0;
    this.news = Date.now();
    const lines = [];
    for (const event of events) {
      if (event.seq !== undefined) lines.push(event);
      else if (event.type === "Phase") {
        this.host = event;
        this.failure = "";
        this.said = []; // of what it has done before
      } else if (event.type === "Trial") {
        this.trial = event.text;
      } else if (event.type === "Idle") {
        this.host = null;
        this.trial = "";
        this.failure = event.failure;
        this.early = !run;
        this.controls.forget();
        this.load(); // what the node made of it, such as its pictures by the wired VAE
      }
    }
    if (lines.length) {
      this.host = null; // the worker speaks for itself
      this.failure = "";
      this.controls.heard(lines);
      if (this.loading) this.later.push(...lines);
      else if (!this.story.take(lines) || ENDS.test(lines.at(-1).type)) this.load();
    }
    this.schedule();
  }

  queued(on) {
    if (on && (this.node.mode !== 0 || this.story.running || this.host)) return;
    this.waits = on ? Date.now() : 0;
    if (on) this.failure = "";
    this.schedule();
  }

  // What the node said when it had run.
  executed(output) {
    this.said = (output?.text ?? []).join("\n").split("\n");
    this.schedule();
  }

  // ---------------------------------------------------------------- what it shows

  build() {
    const root = this.root = element("div", "darkroom-training");
    root.hidden = true;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", t("train_the_run"));
    this.progress = progress(this);
    this.controls = controls(this);
    this.figures = figures(this);
    this.strip = strip({ enlarge: (step, index) => this.enlarge(step, index), address: (name) => this.address(name) });
    this.words = words(this);
    root.append(...this.progress.elements, this.controls.element, ...this.figures.elements, this.strip.element,
      ...this.words.elements);
    this.inside.append(root);
  }

  schedule() {
    this.dirty = true;
    if (this.timer || this.gone) return;
    const wait = Math.max(0, (this.last ?? 0) + EVERY - performance.now());
    this.timer = setTimeout(() => { this.frame = requestAnimationFrame(() => this.draw()); }, wait);
  }

  draw() {
    this.timer = 0;
    this.last = performance.now();
    if (this.gone) return;
    const there = Boolean(this.run || this.host || this.waits || this.failure), active = this.active();
    giveWay(this.node, active);
    this.wasActive = active;
    if (there !== !this.root.hidden) {
      this.root.hidden = !there;
      if (there && this.node.size[0] < WIDE) this.node.setSize([WIDE, this.node.size[1]]);
    }
    this.dirty = there;
    // Nothing of what is not seen, or too small to be read, is drawn; `tick` comes back to it.
    if (!there || !this.seen || this.inside.getBoundingClientRect().width < SMALL) return;
    this.dirty = false;
    this.progress.draw();
    this.controls.draw();
    this.figures.draw();
    this.drawSamples();
    this.hush();
    this.words.draw();
  }

  // Whether something is being done for the node.
  active() {
    return Boolean(this.waits || this.host || this.story.running || this.turn);
  }

  // What the queue of runs does with it, before its worker speaks.
  get turn() {
    return this.run && !this.story.running ? phaseOf(this.run) : "";
  }

  drawSamples() {
    const { story } = this, now = [story, story.drawn, story.best?.step];
    if (now.every((one, index) => one === this.pictured[index])) return;
    this.pictured = now;
    const drawn = story.phase?.name === "drawing samples" ? story.phase.total : 0;
    this.strip.update(story.samples, story.validations.length ? story.best : null, drawn);
  }

  // The page shows a node's newest picture below it. While the strip has it that would be the same twice; what a sweep
  // shows in the end is another one.
  hush() {
    const { node, story } = this, pictures = story.samples.some((one) => one.picture);
    const hushed = pictures && (node.comfyClass === "Darkroom_TrainLoRA" || this.active());
    if (hushed === this.hushed) return;
    this.hushed = hushed;
    node.hideOutputImages = hushed; // in Nodes 2.0; for what comes while it runs see style.mjs
    if (!hushed) {
      delete node.onDrawBackground;
      return;
    }
    node.onDrawBackground = () => {}; // the classic renderer shows pictures as it draws
    node.imgs = undefined;
    const shows = node.widgets?.findIndex((one) => one.name === CANVAS_PICTURE) ?? -1;
    if (shows >= 0) node.widgets.splice(shows, 1)[0].onRemove?.();
    fit(node);
  }

  enlarge(step, index) {
    const { samples, best } = this.story;
    this.close?.();
    this.close = compare({ samples, step, index, best: best?.step, address: (name) => this.address(name) });
  }

  address(name) {
    return api.apiURL(`/darkroom/runs/${encodeURIComponent(this.run)}/samples/${encodeURIComponent(name)}`);
  }
}

let asking = null; // what is shown in a workflow is asked for once for all its nodes

function shownIn(workflow) {
  if (asking?.workflow !== workflow) {
    const answer = ask(`/shown?workflow=${encodeURIComponent(workflow)}`);
    asking = { workflow, answer };
    answer.catch(() => null).finally(() => setTimeout(() => { asking = null; }, 200));
  }
  return asking.answer;
}
