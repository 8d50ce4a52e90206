// Train LoRA in the background: where its run is in the queue, and a picture of the user's own graph at each checkpoint
// (background/row.mjs, loaded when the first such node is set to it).
import { app } from "../../scripts/app.js";
import { panel, widget } from "./common.js";

const IN_BACKGROUND = "in the background";

app.registerExtension({
  name: "LoRADarkroom.Background",
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_TrainLoRA") return;
    const when = widget(node, "when"), inside = panel(node);
    if (!when) return;
    let row = null, gone = false, loading = false;
    const look = async () => {
      if (!row && !loading && when.value === IN_BACKGROUND) {
        loading = true;
        const { mount } = await import("./background/row.mjs");
        if (!gone) row = mount(node, inside);
      }
      row?.show(when.value === IN_BACKGROUND);
    };
    const chain = (owner, name, action) => {
      const before = owner[name];
      owner[name] = function () {
        const answer = before?.apply(this, arguments);
        action();
        return answer;
      };
    };
    chain(when, "callback", look);
    for (const name of ["onConfigure", "onExecuted"]) chain(node, name, look);
    chain(node, "onExecuted", () => row?.executed());
    chain(node, "onRemoved", () => { gone = true; row?.destroy(); });
    look();
  },
});
