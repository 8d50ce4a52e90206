// Load Dataset: files dropped or chosen become a folder, and what is in it is shown before Run. What does it is in
// dataset/, and comes when the first such node does.
import { app } from "../../scripts/app.js";
import { panel, toast } from "./common.js";

const NODE = "Darkroom_LoadDataset";
const module = () => import("./dataset/panel.mjs");
const holdsFiles = (event) => [...(event.dataTransfer?.items ?? [])].some((one) => one.kind === "file");

app.registerExtension({
  name: "LoRADarkroom.Dataset",
  beforeRegisterNodeDef(type, definition) {
    if (definition.name !== NODE) return;
    const { onExecuted, onRemoved, onDragOver, onDragDrop } = type.prototype;
    type.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      module().then((it) => it.executed(this, output));
    };
    type.prototype.onRemoved = function () {
      module().then((it) => it.forget(this));
      onRemoved?.apply(this, arguments);
    };
    type.prototype.onDragOver = function (event) {
      return holdsFiles(event) || (onDragOver?.apply(this, arguments) ?? false);
    };
    type.prototype.onDragDrop = function (event) {
      if (!holdsFiles(event)) return onDragDrop?.apply(this, arguments) ?? false;
      // Taken at once: they are gone when the event is over.
      const given = [...event.dataTransfer.items].filter((item) => item.kind === "file");
      const entries = given.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const files = given.map((item) => item.getAsFile());
      module().then((it) => it.drop(this, { entries, files })).catch((error) => toast("error", this.title, error.message));
      return true;
    };
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const inside = panel(node);
    node.setSize?.([Math.max(node.size[0], 420), node.size[1]]); // wide enough for captions to be read
    module().then((it) => it.build(node, inside));
  },
});
