// Keeps the page's lists of LoRAs fresh: a LoRA that was just saved can be chosen at once, in every node.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

app.registerExtension({
  name: "LoRADarkroom",
  setup() {
    api.addEventListener("darkroom.loras", () => app.refreshComboInNodes());
  },
});
