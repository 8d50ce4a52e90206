// A field of several lines has its name in it: in the page's language, where the classic renderer writes the English one.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "LoRADarkroom.Names",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Darkroom_")) return;
    for (const one of node.widgets ?? []) {
      if (one.element?.placeholder === one.name && one.label) one.element.placeholder = one.label;
    }
  },
});
