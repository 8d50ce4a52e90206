// Train LoRA and Training Sweep: a panel on the node that shows the run (training/panel.mjs, loaded when the first such
// node appears); and wherever in the graph one looks, it is told when a training has ended.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { onExecuted, panel, toast } from "./common.js";
import { t } from "./text.js";

const TRAINING = new Set(["Darkroom_TrainLoRA", "Darkroom_TrainingSweep"]);
// The page writes a node's progress into a widget of this name. One that is hidden keeps it from saying twice what the
// panel says.
const PROGRESS_TEXT = "$$node-text-preview";

// Before the panel is there, or where none is: the page calls a message that nobody listens to unknown.
api.addEventListener("darkroom.run", () => {});

// Node ids are execution ids: "7:3" is node 3 in subgraph 7. Titles of what is inside are not looked for, nor those of
// another workflow.
function title({ workflow, node }) {
  const root = app.rootGraph ?? app.graph;
  return (workflow === root?.id && root.getNodeById?.(Number(node))?.title) || "LoRA Darkroom";
}

function silence(node) {
  node.addCustomWidget({
    name: PROGRESS_TEXT, type: "darkroom_hidden", value: "", hidden: true, serialize: false,
    options: { hidden: true, serialize: false }, computeSize: () => [0, -4], draw() {},
  });
}

app.registerExtension({
  name: "LoRADarkroom.Train",
  nodeCreated(node) {
    if (!TRAINING.has(node.comfyClass)) return;
    const inside = panel(node, 1);
    let shown = null, gone = false;
    import("./training/panel.mjs").then(({ mount }) => {
      if (!gone) shown = mount(node, inside);
    });
    silence(node);
    onExecuted(node, (output) => {
      // The page prefers the last preview that came while the node ran, also when the node has pictures of its own.
      delete app.nodePreviewImages?.[String(node.id)];
      shown?.executed(output);
    });
    const before = node.onRemoved;
    node.onRemoved = function () {
      before?.apply(this, arguments);
      gone = true;
      shown?.destroy();
    };
  },
  setup() {
    api.addEventListener("darkroom.trained", ({ detail }) => {
      const { steps, loss } = detail, values = { steps, loss: loss?.toFixed(4) };
      toast("success", title(detail), t(loss == null ? "trained" : "trained_to", values));
    });
    api.addEventListener("darkroom.failed", ({ detail }) => toast("error", title(detail), detail.text, 20_000));
  },
});
