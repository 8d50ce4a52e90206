// LoRA Train Config: a preset fills the widgets; the many are out of sight; what became of the YAML is told after a run.
import { app } from "../../scripts/app.js";
import { more } from "./advanced.js";
import { ask, element, keep, onExecuted, panel, set, toast, widget } from "./common.js";
import { wired } from "./graph.js";
import { t } from "./text.js";

let presets = null;

function fill(node, name) {
  const links = new Set(wired(node));
  for (const [input, value] of Object.entries(presets[name])) {
    if (widget(node, input) && !links.has(input)) set(node, input, value);
  }
  const file = widget(node, "yaml_file");
  if (file?.value && !links.has("yaml_file")) file.value = "";
  if (String(widget(node, "yaml")?.value ?? "").trim()) toast("warn", node.title, t("yaml_still_wins"));
  keep();
}

function chooser(node) {
  const select = document.createElement("select");
  select.title = t("preset_hint");
  const offer = (text, value) => select.add(new Option(text, value));
  offer(t("preset"), "");
  const load = async () => {
    presets ??= (await ask("/presets")).presets;
    Object.keys(presets).forEach((name) => offer(name, name));
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
