// Tells at the end of a training, wherever in the graph one looks, that it has ended; and shows its samples on the node.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { onExecuted, toast } from "./common.js";
import { t } from "./text.js";

// Node ids are execution ids: "7:3" is node 3 in subgraph 7. Titles of what is inside are not looked for.
const title = (id) => app.graph?.getNodeById?.(Number(id))?.title ?? "LoRA Darkroom";

const TRAINING = new Set(["Darkroom_TrainLoRA", "Darkroom_TrainingSweep"]);

app.registerExtension({
  name: "LoRADarkroom.Train",
  nodeCreated(node) {
    if (!TRAINING.has(node.comfyClass)) return;
    // The page prefers the last preview that came while the node ran, also when the node has pictures of its own.
    onExecuted(node, () => { delete app.nodePreviewImages?.[String(node.id)]; });
  },
  setup() {
    api.addEventListener("darkroom.trained", ({ detail: { node, steps, loss } }) => {
      const values = { steps, loss: loss?.toFixed(4) };
      toast("success", title(node), t(loss == null ? "trained" : "trained_to", values));
    });
    api.addEventListener("darkroom.failed", ({ detail }) => toast("error", title(detail.node), detail.text, 20_000));
  },
});
