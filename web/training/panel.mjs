// The panel on Train LoRA: how far the run is, its curves, its samples, and what can be asked of it. It shows the run of
// its node, whoever began it and when: after a reload, in a second tab, and while ComfyUI itself still prepares it.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { curve, figure } from "../charts/curve.mjs";
import { smoothed } from "../charts/smoothed.mjs";
import { ask, dress, element, toast } from "../common.js";
import { expected, giveWay, says } from "../estimate.js";
import { place } from "../graph.js";
import { count, duration, t } from "../text.js";
import { compare } from "./compare.mjs";
import { Story } from "./story.mjs";
import { strip } from "./strip.mjs";
import { STYLE } from "./style.mjs";

const EVERY = 200; // ms between two drawings, at least
const SMALL = 90; // px: a panel that is narrower on the screen cannot be read, and is not drawn
const WIDE = 400; // px of the node
const SIGNALS = {
  held_out: ["validation", "train_held_out"], train: ["train", "train_on_training"], drift: ["drift", "train_drift"],
};
const PHASES = {
  "reading the data set": "train_reading", "looking at the base model": "train_looking",
  "reading the texts": "train_reading", "looking at the language model": "train_looking",
  "encoding captions": "train_encoding_captions", "encoding images": "train_encoding_images",
  "starting the worker": "train_starting", "loading the base model": "train_loading",
  "trying a step": "train_trying", training: "train_training", "drawing samples": "train_drawing",
  paused: "train_paused", queued: "train_queued", stopping: "train_stopping",
};
const MARKS = { run: "▶", rest: "⏸", end: "✔", stop: "■", fail: "✖", wait: "…" };

const ENDS = /^Run(Finished|Stopped|Failed)$/;

const panels = new Set();

api.addEventListener("darkroom.run", ({ detail }) => panels.forEach((one) => one.hear(detail)));
// What was said meanwhile is lost.
api.addEventListener("reconnected", () => panels.forEach((one) => one.load()));
api.addEventListener("promptQueued", () => panels.forEach((one) => one.queued(true)));
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
    this.host = null; // what ComfyUI itself does, a Phase
    this.waits = 0; // since when it is queued, in ms; 0: it is not
    this.failure = "";
    this.said = []; // lines that the node has said
    this.asked = null; // {action, until}: a request that is not yet answered
    this.loading = null;
    this.later = []; // lines that came while the story was asked for
    this.timer = 0;
    this.drawn = {}; // what of the story is on the page
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
    this.chart.destroy();
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
    if (this.dirty || this.host || this.waits || this.story.running) this.schedule();
  }

  // The run that this node shows, and what is being done for it.
  async find() {
    const at = this.at;
    const { nodes } = await shownIn(at.workflow).catch(() => ({ nodes: {} }));
    if (this.gone || at !== this.at) return;
    const mine = nodes[at.node];
    if (mine?.run) this.follow(mine.run);
    if (mine?.phase) this.host = mine.phase;
    this.schedule();
  }

  follow(run) {
    if (run === this.run) return;
    this.run = run;
    this.story = new Story();
    this.drawn = {};
    this.load();
  }

  // Asks for the whole story.
  async load() {
    if (!this.run || this.loading) return;
    const run = this.run;
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
    const lines = [];
    for (const event of events) {
      if (event.seq !== undefined) lines.push(event);
      else if (event.type === "Phase") {
        this.host = event;
        this.failure = "";
      } else if (event.type === "Idle") {
        this.host = null;
        this.failure = event.failure;
        this.asked = null;
        this.load(); // what the node made of it, such as its pictures by the wired VAE
      }
    }
    if (lines.length) {
      this.host = null; // the worker speaks for itself
      this.failure = "";
      this.answered(lines);
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

  // ---------------------------------------------------------------- what it is asked

  async request(action) {
    this.asked = { action, until: Date.now() + 60_000 };
    this.schedule();
    try {
      await ask(`/runs/${encodeURIComponent(this.run)}/control`, { action });
    } catch (error) {
      this.asked = null;
      toast("error", t("train_lora"), error.message);
    }
    this.schedule();
  }

  answered(lines) {
    const wanted = {
      save: (one) => one.type === "Checkpoint", sample: (one) => one.type === "Sample",
      pause: (one) => one.name === "paused", resume: (one) => one.name === "training" || one.type === "Step",
    }[this.asked?.action];
    if (lines.some((one) => wanted?.(one) || ENDS.test(one.type))) this.asked = null;
  }

  enlarge(step, index) {
    const { samples, best } = this.story;
    this.close?.();
    this.close = compare({ samples, step, index, best: best?.step, address: (name) => this.address(name) });
  }

  address(name) {
    return api.apiURL(`/darkroom/runs/${encodeURIComponent(this.run)}/samples/${encodeURIComponent(name)}`);
  }

  // ---------------------------------------------------------------- what it shows

  build() {
    const root = this.root = element("div", "darkroom-training");
    root.hidden = true;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", t("train_the_run"));
    this.head = element("div", "head");
    this.mark = element("span", "");
    this.mark.setAttribute("aria-hidden", "true");
    this.name = element("span", "name");
    this.left = element("span", "left");
    this.head.append(this.mark, this.name, this.left);
    this.bar = element("div", "bar");
    this.bar.append(element("div", ""));
    this.bar.setAttribute("role", "progressbar");
    this.bar.setAttribute("aria-label", t("train_progress"));
    this.bar.setAttribute("aria-valuemin", "0");
    this.bar.setAttribute("aria-valuemax", "100");
    this.aloud = element("div", "aside"); // of what happens, only what is new is read out
    this.aloud.setAttribute("role", "status");
    this.buttons = element("div", "row");
    this.pausing = this.button(() => (this.story.paused ? "resume" : "pause"));
    this.keeping = this.button(() => "keep", t("train_keep"), t("train_keep_hint"));
    this.saving = this.button(() => "save", t("train_save"), t("train_save_hint"));
    this.sampling = this.button(() => "sample", t("train_sample"), t("train_sample_hint"));
    this.stats = element("dl", "stats");
    this.chart = curve({ height: 150, label: t("train_curves") });
    this.strip = strip({ enlarge: (step, index) => this.enlarge(step, index), address: (name) => this.address(name) });
    this.words = element("div", "words");
    this.more = element("details", "");
    this.more.append(element("summary", ""), element("div", "words"));
    root.append(this.head, this.bar, this.aloud, this.buttons, this.stats, this.chart.element, this.strip.element,
      this.words, this.more);
    this.inside.append(root);
  }

  button(action, text = "", hint = "") {
    const one = element("button", "", text);
    one.type = "button";
    one.title = hint;
    one.addEventListener("click", () => {
      if (one.getAttribute("aria-disabled") !== "true") this.request(action());
    });
    this.buttons.append(one);
    return one;
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
    if (there !== !this.root.hidden) {
      this.root.hidden = !there;
      if (there && this.node.size[0] < WIDE) this.node.setSize([WIDE, this.node.size[1]]);
    }
    this.dirty = there;
    // Nothing of what is not seen, or too small to be read, is drawn; `tick` comes back to it.
    if (!there || !this.seen || this.inside.getBoundingClientRect().width < SMALL) return;
    this.dirty = false;
    this.drawHead();
    this.drawButtons();
    this.drawStats();
    this.drawChart();
    this.drawSamples();
    this.drawWords();
  }

  // Whether something is being done for the node.
  active() {
    return Boolean(this.waits || this.host || this.story.running);
  }

  // {name, done, total, t} of what is done now; null if nothing is.
  doing() {
    const { story } = this;
    if (this.host) return this.host;
    if (this.waits) return { name: "queued", done: 0, total: 0, t: this.waits / 1000 };
    if (story.running && this.asked?.action === "keep") return { ...story.phase, name: "stopping" };
    return story.running || (!story.end && story.run?.state === "running") ? story.phase : null;
  }

  drawHead() {
    const { story } = this, doing = this.doing();
    let text, mark, left = "", part = null;
    if (doing) {
      const { name, total } = doing, resting = name === "paused";
      mark = { queued: MARKS.wait, paused: MARKS.rest }[name] ?? MARKS.run;
      const known = PHASES[name.toLowerCase()], shown = known ? t(known) : name[0].toUpperCase() + name.slice(1);
      const far = ["training", "paused", "stopping"].includes(name);
      const of = far ? t("step_of", { step: story.step, total: story.total })
        : total ? t("train_of", { done: Math.min(doing.done + 1, total), total }) : "";
      text = [shown, of].filter(Boolean).join(" · ");
      part = far ? story.step / Math.max(1, story.total) : total ? doing.done / total : null;
      const seconds = this.secondsLeft(doing);
      if (seconds !== null && !resting) left = t("left", { time: duration(seconds) });
    } else {
      [text, mark] = this.ended();
      part = story.total ? story.step / story.total : null;
    }
    write(this.mark, mark);
    write(this.name, text);
    write(this.left, left);
    this.head.classList.toggle("failed", mark === MARKS.fail);
    this.bar.hidden = !doing;
    this.bar.classList.toggle("still", part === null);
    this.bar.firstChild.style.transform = part === null ? "" : `scaleX(${Math.min(1, part).toFixed(4)})`;
    if (part === null) this.bar.removeAttribute("aria-valuenow");
    else this.bar.setAttribute("aria-valuenow", String(Math.round(part * 100)));
    this.bar.setAttribute("aria-valuetext", [text, left].filter(Boolean).join(", "));
    const aloud = doing ? doing.name : text;
    if (aloud !== this.read) write(this.aloud, text);
    this.read = aloud;
  }

  // In words, and the mark.
  ended() {
    const { story } = this, { end } = story;
    const step = { step: story.step || story.run?.step || 0, total: story.total };
    if (end?.type === "RunFailed" || (this.failure && end?.type !== "RunStopped")) {
      return [[t("train_failed"), step.step && t("step_of", step)].filter(Boolean).join(" · "), MARKS.fail];
    }
    if (end?.type === "RunFinished" || story.run?.state === "finished") {
      const outcome = /^\d+ steps/.test(this.said[0]) ? this.said[0] : count("step", end?.step ?? step.step);
      return [`${t("train_finished")} · ${outcome}`, MARKS.end];
    }
    if (story.run) return [`${t("train_stopped")} · ${t("step_of", step)}`, MARKS.stop];
    return ["", ""];
  }

  // To the end of the whole, as far as that can be known.
  secondsLeft(doing) {
    const { story } = this, now = story.now();
    if (["training", "drawing samples", "paused", "stopping"].includes(doing.name)) {
      if (!story.left || doing.name === "stopping") return null;
      return Math.max(1, story.left.seconds - (doing.name === "paused" ? 0 : now - story.left.t));
    }
    const all = expected(this.node);
    const training = story.begun && story.left ? story.left.seconds : all;
    if (!doing.total) return training;
    if (this.pace?.name !== doing.name) this.pace = { name: doing.name, done: doing.done, at: performance.now() };
    const done = doing.done - this.pace.done;
    if (!done) return training;
    const each = (performance.now() - this.pace.at) / 1000 / done;
    return each * (doing.total - doing.done) + (training ?? 0);
  }

  drawButtons() {
    const { story } = this, on = story.running && !this.host;
    this.buttons.hidden = !on;
    if (this.asked && Date.now() > this.asked.until) this.asked = null;
    const action = this.asked?.action, ends = action === "keep", busy = ["pause", "resume"].includes(action);
    write(this.pausing, t(story.paused ? "train_resume" : "train_pause"));
    this.pausing.title = t(story.paused ? "train_resume_hint" : "train_pause_hint");
    enable(this.pausing, !ends && !busy);
    enable(this.keeping, !ends && story.step > 0);
    const unsaved = story.step > 0 && !story.checkpoints.includes(story.step);
    enable(this.saving, !ends && !story.paused && action !== "save" && unsaved);
    enable(this.sampling, !ends && !story.paused && action !== "sample" && story.phase?.name !== "drawing samples");
  }

  drawStats() {
    const { story } = this, last = story.losses.at(-1);
    this.stats.hidden = !last;
    if (!last) return;
    const [, , rate, seconds, memory] = last;
    const free = story.plan?.free;
    const shown = [
      [t("train_rate"), figure(rate)],
      [t("train_pace"), t("train_seconds", { number: figure(Number(seconds.toPrecision(3))) })],
      [t("train_memory"), memory ? `${(memory / 1e9).toFixed(1)} GB` : "–",
        free ? t("train_memory_hint", { free: (free / 1e9).toFixed(1) }) : ""],
      [t("train_saved"), story.checkpoints.length ? t("train_at_step", { step: story.checkpoints.at(-1) }) : "–"],
    ];
    while (this.stats.children.length < shown.length) {
      const one = element("div", "");
      one.append(element("dt", ""), element("dd", ""));
      this.stats.append(one);
    }
    shown.forEach(([name, value, hint = ""], index) => {
      const one = this.stats.children[index];
      write(one.firstChild, name);
      write(one.lastChild, value);
      if (one.title !== hint) one.title = hint;
    });
  }

  drawChart() {
    const { story } = this, state = [story.losses.length, story.seq, story.best?.step].join();
    this.chart.element.hidden = !story.losses.length;
    if (state === this.drawn.chart) return;
    this.drawn.chart = state;
    const raw = story.losses.map(([step, loss]) => [step, loss]);
    const series = [
      { name: t("train_loss"), kind: "raw", points: raw },
      { name: t("train_smoothed"), kind: "smooth", points: smoothed(raw) },
    ];
    for (const [signal, [kind, name]] of Object.entries(SIGNALS)) {
      const points = story.validations.filter((one) => one.signal === signal).map((one) => [one.step, one.loss]);
      if (points.length) series.push({ name: t(name), kind, points });
    }
    const marks = story.best && story.validations.length ? [{ step: story.best.step, name: t("best") }] : [];
    this.chart.update({ series, marks });
  }

  drawSamples() {
    const { story } = this, state = [story.drawn, story.best?.step].join();
    if (state === this.drawn.samples) return;
    this.drawn.samples = state;
    this.strip.update(story.samples, story.validations.length ? story.best : null);
    // Train LoRA's own pictures are the last of these.
    if (this.node.comfyClass === "Darkroom_TrainLoRA") this.node.hideOutputImages = story.samples.some((one) => one.picture);
  }

  drawWords() {
    const { story } = this, { end, best } = story, words = [], more = [];
    const diagnosis = story.advice.filter((one) => one.kind === "diagnosis");
    if (this.failure) words.push(["✖", this.failure]);
    else if (end?.type === "RunFailed" && !this.active()) words.push(["✖", end.message, end.cure]);
    if (end?.type === "RunStopped" && !this.active()) words.push(["■", t("train_goes_on")]);
    if (end?.stopped && !this.active()) words.push(["■", end.stopped]);
    for (const one of diagnosis) words.push(["★", one.message, one.cure]);
    if (best && best.step < story.step && !this.active()) {
      words.push(["▲", `${t("train_best_step", { step: best.step })}: ${best.reason}`]);
    }
    for (const one of story.advice) {
      // What is said of the next run already need not be said again of this one.
      if (one.kind === "warning" && !says(this.node, one.message)) words.push(["⚠", one.message, one.cure]);
    }
    for (const text of story.warnings) words.push(["⚠", text]);
    const known = new Set(words.map(([, text]) => text));
    for (const line of this.said) {
      const note = line.startsWith("- ") && line.slice(2);
      if (note && !known.has(note)) (/^(memory|trained in) /.test(note) ? more : words).push(["•", note]);
    }
    for (const one of story.chosen) more.push(["•", `${one.field}: ${one.value}`, one.why]);
    for (const one of story.advice) if (one.kind === "note") more.push(["•", one.message, one.cure]);
    if (story.plan?.how) more.push(["•", story.plan.how]);
    if (this.run) more.push(["•", t("train_run", { run: story.run?.label ?? this.run })]);
    const state = JSON.stringify([words, more]);
    if (state === this.drawn.words) return;
    this.drawn.words = state;
    this.words.replaceChildren(...words.map(line));
    this.words.hidden = !words.length;
    this.more.hidden = !more.length;
    this.more.firstChild.textContent = t("train_more");
    this.more.lastChild.replaceChildren(...more.map(line));
  }
}

function line([mark, text, cure = ""]) {
  const one = element("p", mark === "⚠" ? "warn" : mark === "✖" ? "error" : ""), sign = element("span", "mark", mark);
  sign.setAttribute("aria-hidden", "true");
  one.append(sign, text);
  if (cure) one.append(element("span", "cure", ` → ${cure}`));
  return one;
}

function write(one, text) {
  if (one.textContent !== text) one.textContent = text;
}

// Not `disabled`: that would take the focus from whoever has just pressed it.
function enable(one, on) {
  const off = String(!on);
  if (one.getAttribute("aria-disabled") !== off) one.setAttribute("aria-disabled", off);
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
