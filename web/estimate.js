// Train LoRA says before Run what it will be: pictures or samples, steps, time, memory. It only asks; nothing is started.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, element, panel, widget } from "./common.js";
import { search, upstream, wired } from "./graph.js";
import { count, duration, t } from "./text.js";

const LOOK_EVERY = 600; // ms; what was the same for two looks is asked for
const nodes = new Map(); // node -> {inside, asked, seen, seconds}

function values(node) {
  const links = new Set(wired(node));
  const found = {};
  for (const one of node.widgets ?? []) {
    if (one.serialize === false || one.type === "darkroom_panel") continue;
    if (!links.has(one.name)) {
      found[one.name] = one.value;
      continue;
    }
    // Of what is wired only a primitive's value is known before Run.
    const from = upstream(node, { name: one.name });
    if (from?.type?.startsWith("Primitive")) found[one.name] = from.widgets?.[0]?.value;
  }
  return found;
}

// The language model that a data set of text is for.
function language(node) {
  return search(node, { name: "clip" }, "CLIP", (at) => {
    if (at.type === "Darkroom_LoadLanguageModel") {
      return { kind: "language", name: widget(at, "model")?.value ?? "", path: widget(at, "path")?.value ?? "" };
    }
    const file = at.type === "CLIPLoader" && widget(at, "clip_name")?.value;
    return file ? { kind: "text_encoder", name: file } : null;
  });
}

function base(node) {
  const chosen = widget(node, "base_file")?.value;
  if (chosen && !String(chosen).startsWith("(")) return { kind: "checkpoint", name: chosen };
  return search(node, { name: "model" }, "MODEL", (at) => {
    if (at.type === "Darkroom_LoadDemoBase") return { kind: "demo" };
    for (const [name, kind] of [["ckpt_name", "checkpoint"], ["unet_name", "unet"]]) {
      const file = widget(at, name)?.value;
      if (file) return { kind, name: file };
    }
    return null;
  });
}

// What the route is asked for a node; null where something is not wired, or not known before Run.
function question(node) {
  const unwired = !node.inputs?.some((one) => one.name === "config" && one.link != null);
  const config = search(node, { name: "config" }, "DARKROOM_CONFIG",
    (at) => (at.type === "Darkroom_LoRATrainConfig" ? at : null));
  const data = search(node, { name: "dataset" }, "DARKROOM_DATASET",
    (at) => (at.type === "Darkroom_LoadDataset" ? at : null));
  const model = base(node) ?? language(node);
  // Pictures that the graph has yet to make cannot be counted.
  const later = data?.inputs?.some((one) => one.name === "images" && one.link != null);
  if (!(config || unwired) || !data || later || !model) return null;
  const settings = config ? { config: values(config), wired: wired(config) } : { config: {} };
  const captioned = search(node, { name: "dataset" }, "DARKROOM_DATASET",
    (at) => (at.type === "Darkroom_AutoCaption" ? true : null)) ?? false;
  const devices = Number(widget(node, "devices")?.value ?? 1);
  return { dataset: values(data), ...settings, base: model, captioned, devices };
}

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

// What a run will be; how that is known; and whether it will not fit. `plain`: messages in the page's language.
export function told(found, plain = String) {
  if (!found.steps) return []; // the model is yet to be made
  const cpu = found.device === "cpu", where = cpu ? t("the_cpu") : found.card;
  const parts = [
    found.text ? count("sample", found.images) : count("picture", found.images),
    found.regularisation && t("for_regularisation", { number: found.regularisation }),
    found.held_out && t("held_out", { number: found.held_out }),
    t(found.text ? "samples_shown_times" : "shown_times", { steps: count("step", found.steps), times: found.presentations }),
    found.seconds !== null && t("takes", { time: duration(found.seconds), where }),
    t("needs", { memory: gigabytes(found.memory) }),
  ];
  const lines = [element("div", "", parts.filter(Boolean).join(t("comma")))];
  if (found.encoding >= 60) lines.push(element("div", "dim", t("encoding", { time: duration(found.encoding) })));
  const run = found.run.slice(0, 4), here = t(cpu ? "this_cpu" : "this_card");
  lines.push(element("div", "dim", t(`by_${found.how}`, { run, here })));
  if (found.room && found.memory > found.room) {
    lines.push(element("div", "warn", t(found.text ? "text_does_not_fit" : "does_not_fit", { where, memory: gigabytes(found.room) })));
  }
  if (found.chosen.length) lines.push(element("div", "dim lines", found.chosen.map(plain).join("\n")));
  lines.push(...found.advice.map((text) => element("div", text.startsWith("note") ? "dim lines" : "warn lines", plain(text))));
  return lines;
}

// Seconds that a node's run was estimated to take; null if that is not known.
export function expected(node) {
  return nodes.get(node)?.seconds ?? null;
}

// Whether a text can be read there now.
export function says(node, text) {
  const inside = nodes.get(node)?.inside;
  return Boolean(inside && !inside.hidden && inside.textContent.includes(text));
}

// While a run goes on, what it is stands in place of what it was thought to be.
export function giveWay(node, on) {
  const inside = nodes.get(node)?.inside;
  if (inside) inside.hidden = on;
}

async function show(inside, state, asked) {
  state.asked = asked;
  state.seconds = null;
  if (!asked) {
    inside.replaceChildren();
    return;
  }
  const { plain } = await import("./messages/plain.mjs");
  let lines, seconds = null;
  try {
    const found = await ask("/estimate", JSON.parse(asked));
    seconds = found.seconds;
    lines = told(found, plain);
  } catch (error) {
    lines = [element("div", "error lines", plain(error.message))];
  }
  if (state.asked !== asked) return;
  state.seconds = seconds;
  inside.replaceChildren(...lines);
  inside.dispatchEvent(new Event("darkroom-told", { bubbles: true })); // the panel beside it does not repeat it
}

function look() {
  if (document.hidden) return;
  for (const [node, state] of nodes) {
    if (!node.graph) continue;
    let now = "";
    try {
      const found = question(node);
      now = found ? JSON.stringify(found) : "";
    } catch {
      // A graph that is being taken apart, or one of a kind that is not known: nothing is said.
    }
    if (now === state.seen && now !== state.asked) show(state.inside, state, now);
    state.seen = now;
  }
}

app.registerExtension({
  name: "LoRADarkroom.Estimate",
  setup() {
    setInterval(look, LOOK_EVERY);
    // A run that ended is a figure for the next one; and while the server was away nothing was answered.
    for (const event of ["execution_success", "execution_error", "execution_interrupted", "reconnected"]) {
      api.addEventListener(event, () => nodes.forEach((state) => { state.asked = null; }));
    }
  },
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_TrainLoRA") return;
    nodes.set(node, { inside: panel(node, 2), asked: "", seen: null });
    const before = node.onRemoved;
    node.onRemoved = function () {
      before?.apply(this, arguments);
      nodes.delete(node);
    };
  },
});
