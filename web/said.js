// What a node said when it ran, on the node: as large as it is, in either renderer, and there until it says else.
import { app } from "../../scripts/app.js";
import { panel } from "./common.js";

const NODES = new Set([
  "Darkroom_ApplyLoRA", "Darkroom_SaveLoRA", "Darkroom_LoadTrainedLoRA", "Darkroom_StrengthSweep",
  "Darkroom_ResizeLoRA", "Darkroom_MergeLoRAs", "Darkroom_AutoCaption",
]);

app.registerExtension({
  name: "LoRADarkroom.Said",
  nodeCreated(node) {
    if (!NODES.has(node.comfyClass)) return;
    const inner = panel(node, "said");
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.apply(this, arguments);
      const lines = document.createElement("div");
      lines.className = "lines darkroom-said";
      lines.textContent = (output?.text ?? []).join("\n");
      inner.replaceChildren(...(lines.textContent ? [lines] : []));
    };
  },
});
