// What a node said when it ran, on the node: as large as it is, in either renderer, and there until it says else.
import { app } from "../../scripts/app.js";
import { element, onExecuted, panel } from "./common.js";

const NODES = new Set([
  "Darkroom_ApplyLoRA", "Darkroom_SaveLoRA", "Darkroom_LoadTrainedLoRA", "Darkroom_StrengthSweep",
  "Darkroom_ResizeLoRA", "Darkroom_MergeLoRAs", "Darkroom_AutoCaption", "Darkroom_TrainingSweep",
]);
const WIDE = 560; // px: a table's columns, side by side

app.registerExtension({
  name: "LoRADarkroom.Said",
  nodeCreated(node) {
    if (!NODES.has(node.comfyClass)) return;
    const inner = panel(node, 1), table = node.comfyClass === "Darkroom_TrainingSweep";
    if (table && node.size[0] < WIDE) node.setSize([WIDE, node.size[1]]);
    onExecuted(node, async (output) => {
      const { plain } = await import("./messages/plain.mjs");
      const text = plain((output?.text ?? []).join("\n"));
      inner.replaceChildren(...(text ? [element("div", `lines darkroom-said${table ? " table" : ""}`, text)] : []));
    });
  },
});
