// Train LoRA says before Run what it will be: pictures, steps, time, memory. It only asks; nothing is started.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, element, panel, widget } from "./common.js";
import { search, upstream, wired } from "./graph.js";

const LOOK_EVERY = 600; // ms; what was the same for two looks is asked for
const nodes = new Map(); // node -> {inside, asked, seen}

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
  const model = base(node);
  // Pictures that the graph has yet to make cannot be counted.
  const later = data?.inputs?.some((one) => one.name === "images" && one.link != null);
  if (!(config || unwired) || !data || later || !model) return null;
  const { folder, path, repeats } = values(data);
  const settings = config ? { config: values(config), wired: wired(config) } : { config: {} };
  return { dataset: { folder, path, repeats }, ...settings, base: model };
}

async function show(inside, state, asked) {
  state.asked = asked;
  if (!asked) {
    inside.replaceChildren();
    return;
  }
  let lines;
  try {
    const found = await ask("/estimate", JSON.parse(asked));
    lines = found.lines.map((text, index) => element("div", index ? "dim" : "", text));
    if (found.warning) lines.push(element("div", "warn", found.warning));
  } catch (error) {
    lines = [element("div", "error lines", error.message)];
  }
  if (state.asked === asked) inside.replaceChildren(...lines);
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
    // A run that ended is a figure for the next one.
    for (const event of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(event, () => nodes.forEach((state) => { state.asked = null; }));
    }
  },
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_TrainLoRA") return;
    nodes.set(node, { inside: panel(node), asked: "", seen: null });
    const before = node.onRemoved;
    node.onRemoved = function () {
      before?.apply(this, arguments);
      nodes.delete(node);
    };
  },
});
