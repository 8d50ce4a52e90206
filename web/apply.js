// Apply LoRA: the strength as a slider, and beside it which checkpoint is applied; loaded with the first such node.
import { app } from "../../scripts/app.js";
import { panel } from "./common.js";

app.registerExtension({
  name: "LoRADarkroom.Apply",
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_ApplyLoRA") return;
    const place = panel(node), before = node.onRemoved;
    let end = null, removed = false;
    node.onRemoved = function () {
      before?.apply(this, arguments);
      removed = true;
      end?.();
    };
    import("./apply/strength.mjs").then(({ show }) => {
      if (!removed) end = show(node, place);
    }).catch((error) => { place.textContent = error.message; });
  },
});
