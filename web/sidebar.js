// The tab Runs of ComfyUI's sidebar; what is in it is loaded when it is first opened.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { t } from "./text.js";

let close = null; // of the tab that is open

function render(container) {
  destroy();
  const mine = { closed: false, end: null };
  close = () => {
    mine.closed = true;
    mine.end?.();
  };
  import("./sidebar/tab.mjs").then(({ open }) => {
    if (!mine.closed) mine.end = open(container);
  }).catch((error) => { container.textContent = error.message; });
}

function destroy() {
  close?.();
  close = null;
}

app.registerExtension({
  name: "LoRADarkroom.Sidebar",
  setup() {
    // The page complains of events that it has never heard of; these come while the tab is closed, too.
    for (const event of ["darkroom.run", "darkroom.queue"]) api.addEventListener(event, () => {});
    app.extensionManager.registerSidebarTab?.({
      id: "lora-darkroom-runs", icon: "pi pi-chart-line", title: t("runs_title"), tooltip: t("runs_tooltip"),
      type: "custom", render, destroy,
    });
  },
});
