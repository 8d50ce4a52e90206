// The classic renderer shows the widgets that a node calls advanced like all others: here they wait until they are
// asked for, as in the newer one, by ComfyUI's own menu of the node (Show Advanced). LoRA Train Config, which has many,
// has a button for it.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "LoRADarkroom.Advanced",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Darkroom_") || node.comfyClass === "Darkroom_LoRATrainConfig") return;
    for (const one of node.widgets ?? []) one.advanced ||= one.options?.advanced === true;
  },
});
