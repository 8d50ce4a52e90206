// LoRA Train Config: a preset fills the widgets; the many are out of sight; what became of the YAML is told after a run.
import { app } from "../../scripts/app.js";
import { ask, element, keep, onExecuted, panel, set, toast, widget } from "./common.js";
import { wired } from "./graph.js";

let presets = null;

function fill(node, name) {
  const links = new Set(wired(node));
  for (const [input, value] of Object.entries(presets[name])) {
    if (widget(node, input) && !links.has(input)) set(node, input, value);
  }
  const file = widget(node, "yaml_file");
  if (file?.value && !links.has("yaml_file")) file.value = "";
  if (String(widget(node, "yaml")?.value ?? "").trim()) {
    toast("warn", node.title, "The pasted YAML of this node still wins over the preset's values.");
  }
  keep();
}

// The classic renderer shows advanced widgets always; Nodes 2.0 has a button of its own for them.
function arrange(node, all) {
  const links = new Set(wired(node));
  for (const one of node.widgets ?? []) {
    if (one.options?.advanced) one.hidden = !all && !links.has(one.name);
  }
  node.setSize([node.size[0], node.computeSize()[1]]);
  node.setDirtyCanvas?.(true, true);
}

function more(node) {
  const one = document.createElement("button");
  one.type = "button";
  let all = app.extensionManager?.setting?.get?.("Comfy.Node.AlwaysShowAdvancedWidgets") ?? false;
  const show = () => {
    one.textContent = all ? "Fewer settings" : "All settings";
    one.hidden = window.LiteGraph?.vueNodesMode === true;
    arrange(node, all || one.hidden);
  };
  one.addEventListener("click", () => {
    all = !all;
    show();
  });
  app.ui?.settings?.addEventListener?.("Comfy.VueNodes.Enabled.change", () => setTimeout(show, 100));
  show();
  return one;
}

function chooser(node) {
  const select = document.createElement("select");
  select.title = "Fills the settings of this node. Your prompts, folders and seed stay as they are.";
  const offer = (text, value) => select.add(new Option(text, value));
  offer("Preset...", "");
  const load = async () => {
    if (select.options.length > 1) return;
    presets ??= (await ask("/presets")).presets;
    if (select.options.length === 1) Object.keys(presets).forEach((name) => offer(name, name));
  };
  select.addEventListener("change", () => {
    if (select.value) fill(node, select.value);
    select.value = "";
  });
  load().catch((error) => { select.title = error.message; });
  return select;
}

app.registerExtension({
  name: "LoRADarkroom.Config",
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_LoRATrainConfig") return;
    const row = element("div", "row");
    row.append(chooser(node), more(node));
    const notes = element("div", "dim lines");
    notes.hidden = true;
    panel(node).append(row, notes);
    onExecuted(node, (output) => {
      notes.textContent = (output?.text ?? []).join("\n");
      notes.hidden = !notes.textContent;
    });
  },
});
