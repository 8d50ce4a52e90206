// On Train LoRA, when it trains in the background: where its run is in the queue, and whether the graph behind it draws
// each checkpoint. Any number of pages may show a run; the server lets the first that asks draw a checkpoint.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { ask, element, keep, toast, write } from "../common.js";
import { place } from "../graph.js";
import { plain } from "../messages/plain.mjs";
import { t } from "../text.js";
import { behind } from "./behind.mjs";

const DRAWS = "darkroom_draws"; // in a node's properties
const MARK = "darkroom_drawing"; // in the prompt's workflow
const rows = new Set();
let queue = { running: null, paused: false, waiting: [], failed: [], note: "" };

api.addEventListener("darkroom.queue", lookAtQueue);
api.addEventListener("reconnected", () => { // what was said meanwhile is lost
  lookAtQueue();
  for (const row of rows) row.find();
});
// What is behind a node is changed at other nodes, too.
api.addEventListener("graphChanged", () => { for (const row of rows) row.tell(); });
api.addEventListener("darkroom.run", ({ detail }) => {
  for (const row of rows) row.hear(detail);
});
api.addEventListener("status", ({ detail }) => {
  if (detail?.exec_info?.queue_remaining === 0) for (const row of rows) row.draw();
});

let looks = 0, latest = null;
lookAtQueue();

// What the queue of runs does with a run of which no worker tells anything yet: the name of a phase, or nothing.
export function phaseOf(run) {
  if (queue.running === run) return "starting the worker";
  return queue.waiting.includes(run) ? "waiting for its turn" : "";
}

function lookAtQueue() {
  return (latest = lookOnce((looks += 1)));
}

async function lookOnce(look) {
  const told = await ask("/queue").catch(() => null);
  if (look !== looks) return latest; // a later answer may come first
  if (!told) return;
  queue = told;
  for (const row of rows) row.tell();
}

// Puts the row into a place on a node.
export function mount(node, inside) {
  const row = new Row(node, inside);
  rows.add(row);
  row.find();
  return row;
}

class Row {
  constructor(node, inside) {
    this.node = node;
    this.run = "";
    this.step = 0; // the newest checkpoint that is yet to be drawn
    this.saved = false; // whether there is a checkpoint
    this.first = 0; // the step of the first one, where there is none yet
    this.asking = false;
    this.root = element("div", "section darkroom-background");
    this.state = element("div", "dim");
    this.state.setAttribute("role", "status");
    this.waits = element("div", "dim");
    this.waits.setAttribute("role", "status");
    const label = element("label", "row");
    this.box = document.createElement("input");
    this.box.type = "checkbox";
    this.box.addEventListener("change", () => {
      node.properties[DRAWS] = this.box.checked;
      keep();
      this.tell();
    });
    label.append(this.box, element("span", "", t("back_draw")));
    label.title = t("back_draw_hint");
    this.hint = element("div", "warn");
    this.root.append(this.state, this.waits, label, this.hint);
    inside.append(this.root);
  }

  destroy() {
    rows.delete(this);
    this.root.remove();
  }

  show(on) {
    this.root.style.display = on ? "" : "none";
    this.box.checked = this.node.properties[DRAWS] === true;
    this.tell();
  }

  get on() {
    return this.root.style.display !== "none" && this.box.checked;
  }

  // The run that the node shows, and the queue.
  async find() {
    const at = place(this.node), { run } = this;
    if (!at) return;
    const shown = await ask(`/shown?workflow=${encodeURIComponent(at.workflow)}`).catch(() => null);
    if (run === this.run) this.turn(shown?.nodes[at.node]?.run); // else an event has told of a newer one meanwhile
    await Promise.all([this.look(), lookAtQueue()]);
  }

  // From here on, the row is about this run; whether that is news.
  turn(run) {
    if (!run || run === this.run) return false;
    this.run = run;
    this.step = 0;
    this.saved = false;
    return true;
  }

  // Whether anything of the run is saved yet, and when it will be.
  async look() {
    const { run } = this;
    const told = run ? await ask(`/runs/${encodeURIComponent(run)}`).catch(() => null) : null;
    if (run !== this.run) return;
    this.saved ||= Boolean(told?.steps.length);
    this.first = this.saved ? 0 : told?.next_checkpoint ?? 0;
    this.tell();
  }

  // The node has run: where nothing can be drawn yet, nobody need wonder why.
  async executed() {
    await this.find(); // its result may come before the first event of its run
    if (!this.waits.hidden) toast("info", t("train_lora"), this.waits.textContent);
  }

  tell() {
    const failed = queue.failed.find((one) => one.run === this.run);
    const ahead = queue.waiting.indexOf(this.run) + (queue.running ? 1 : 0);
    let text = "";
    if (!this.run) text = "";
    else if (queue.running === this.run) text = t(queue.paused ? "back_rests" : "back_trains");
    else if (queue.waiting.includes(this.run)) {
      text = ahead ? t(ahead === 1 ? "back_behind_one" : "back_behind_many", { number: ahead }) : t("back_next");
    } else if (failed) text = t("back_failed", { why: [failed.message, failed.cure].filter(Boolean).map(plain).join("; ") });
    const one = failed && text ? "error" : "dim";
    write(this.state, text);
    if (this.state.className !== one) this.state.className = one;
    this.state.hidden = !text;
    const waits = this.first && (queue.running === this.run || queue.waiting.includes(this.run));
    write(this.waits, waits ? t("back_waits", { step: this.first }) : "");
    this.waits.hidden = !waits;
    const none = this.on && !behind(this.node).length;
    this.hint.textContent = none ? t("back_nothing_behind") : "";
    this.hint.hidden = !none;
  }

  hear({ run, workflow, node, events }) {
    const at = place(this.node);
    if (workflow !== at?.workflow || node !== at?.node) return;
    if (this.turn(run)) this.look();
    const saved = events.filter((one) => one.type === "Checkpoint").at(-1);
    if (!saved) return;
    this.saved = true;
    this.first = 0;
    this.tell();
    this.step = saved.step;
    this.draw();
  }

  // Has the graph behind the node draw the newest checkpoint, unless the last drawing, or another prompt of this workflow,
  // is still on its way: then when the queue is empty.
  async draw() {
    if (!this.on || !this.step || this.asking) return;
    const targets = behind(this.node), { step } = this;
    if (!targets.length) return;
    this.asking = true;
    try {
      const { mark, busy } = await ask(`/runs/${encodeURIComponent(this.run)}/draw`, { step });
      if (!busy && this.step === step) this.step = 0;
      if (!mark) return;
      // Not app.queuePrompt: it would add the mark to what the user queues, too. Seeds stay as they are: the pictures of
      // the checkpoints are to differ in nothing else.
      const made = await app.graphToPrompt();
      made.workflow = { ...made.workflow, extra: { ...made.workflow.extra, [MARK]: mark } };
      await api.queuePrompt(0, made, { partialExecutionTargets: targets });
    } catch (error) {
      toast("warn", t("back_not_drawn", { step }), error.message);
    } finally {
      this.asking = false;
    }
    if (this.step && this.step !== step) this.draw(); // another one came meanwhile
  }
}
