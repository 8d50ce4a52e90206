// LoRA Train Config: a preset fills the widgets; the many are out of sight; what became of the YAML is told after a run.
// With auto the widgets that the pictures and the card decide are greyed, and named.
import { app } from "../../scripts/app.js";
import { more } from "./advanced.js";
import { ask, element, keep, panel, set, toast, widget } from "./common.js";
import { wired } from "./graph.js";
import { onSaid } from "./nodes.js";
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

// As in trainer/config/automatic.py.
const DECIDED = ["lora_rank", "lora_alpha", "learning_rate", "epochs", "batch_size", "gradient_accumulation_steps",
  "gradient_checkpointing", "resolution", "validation_images", "warmup_steps", "mixed_precision"];

function greyed(node, said) {
  const auto = widget(node, "auto");
  if (!auto) return;
  const show = () => {
    const links = new Set(wired(node));
    for (const name of DECIDED) {
      const one = widget(node, name);
      if (one) one.disabled = auto.value === true && !links.has(name);
    }
    said.hidden = auto.value !== true;
    node.setDirtyCanvas?.(true, true);
  };
  const before = auto.callback;
  auto.callback = function () {
    before?.apply(this, arguments);
    show();
  };
  // A graph that is loaded sets its widgets without a word, and a link comes and goes as it likes.
  for (const event of ["onConfigure", "onConnectionsChange"]) {
    const former = node[event];
    node[event] = function () {
      former?.apply(this, arguments);
      show();
    };
  }
  show();
}

app.registerExtension({
  name: "LoRADarkroom.Config",
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_LoRATrainConfig") return;
    const row = element("div", "row");
    row.append(chooser(node), more(node));
    const said = element("div", "dim", t("auto_decides"));
    const notes = element("div", "dim lines");
    notes.hidden = true;
    panel(node).append(row, said, notes);
    greyed(node, said);
    onSaid(node, async (output) => {
      const { plain } = await import("./messages/plain.mjs");
      notes.textContent = plain((output?.text ?? []).join("\n"));
      notes.hidden = !notes.textContent;
    });
  },
});
