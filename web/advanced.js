// The widgets that a node calls advanced wait until they are asked for, in the classic renderer too: by ComfyUI's own menu
// of the node (Show Advanced), or by a button of LoRA Train Config, which has many. One that is wired stays in sight.
import { app } from "../../scripts/app.js";
import { button, fit } from "./common.js";
import { wired } from "./graph.js";
import { t } from "./text.js";

function always() {
  return app.extensionManager?.setting?.get?.("Comfy.Node.AlwaysShowAdvancedWidgets") === true;
}

// ComfyUI asks `advanced` for a node's size, and so does its menu. The classic renderer leaves empty the room of what is
// advanced, but not of what is hidden; that of an older page leaves this too, unless a widget asks for none.
const none = () => [0, -4]; // four are added to each

function wait(node, widget) {
  const size = widget.computeSize;
  let hidden = widget.hidden;
  const waits = () => !always() && !wired(node).includes(widget.name);
  Object.defineProperty(widget, "advanced", { get: waits, set() {}, configurable: true, enumerable: true });
  Object.defineProperty(widget, "hidden", {
    get: () => hidden || (window.LiteGraph?.vueNodesMode !== true && !node.showAdvanced && waits()),
    set(value) { hidden = value; },
    configurable: true,
    enumerable: true,
  });
  Object.defineProperty(widget, "computeSize", { get: () => (widget.hidden ? none : size), set() {}, configurable: true });
}

// A button that shows and hides them, for the classic renderer; Nodes 2.0 has its own.
export function more(node) {
  const one = button("", () => node.toggleAdvanced());
  const show = () => {
    one.textContent = t(node.showAdvanced ? "fewer_settings" : "all_settings");
    one.hidden = window.LiteGraph?.vueNodesMode === true || always();
  };
  for (const name of ["toggleAdvanced", "onConfigure"]) {
    const before = node[name];
    node[name] = function () {
      const height = this.computeSize()[1];
      before?.apply(this, arguments);
      show();
      if (name === "toggleAdvanced") fit(this, Math.max(0, height - this.computeSize()[1]));
    };
  }
  app.ui?.settings?.addEventListener?.("Comfy.VueNodes.Enabled.change", () => setTimeout(show, 100));
  show();
  return one;
}

app.registerExtension({
  name: "LoRADarkroom.Advanced",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Darkroom_")) return;
    const waiting = (node.widgets ?? []).filter((one) => one.options?.advanced);
    for (const one of waiting) wait(node, one);
    if (waiting.length) node.setSize([node.size[0], node.computeSize()[1]]); // it was made when they were in sight
  },
});
