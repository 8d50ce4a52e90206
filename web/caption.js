// Auto Caption shows the inputs that make a difference to the chosen method, or to the wired model in its place; what they
// are the node's definition says. One that is wired stays in sight. The values of the others are kept, and do not count.
import { app } from "../../scripts/app.js";
import { fit, widget } from "./common.js";
import { wired } from "./graph.js";

const WIRED = "clip";

function show(node, inputs) {
  const links = wired(node), method = widget(node, "method");
  const seen = node.inputs?.find((one) => one.name === WIRED)?.link != null;
  const wanted = inputs[seen ? WIRED : method.value] ?? [];
  const height = node.computeSize()[1];
  method.disabled = seen && !links.includes("method");
  for (const name of new Set(Object.values(inputs).flat())) {
    const one = widget(node, name);
    if (!one) continue;
    const hides = !wanted.includes(name) && !links.includes(name);
    one.hidden = hides;
    one.options.hidden = hides; // Nodes 2.0 reads this one
  }
  const shrunk = height - node.computeSize()[1];
  if (shrunk && !window.LiteGraph?.vueNodesMode) fit(node, Math.max(0, shrunk));
}

app.registerExtension({
  name: "LoRADarkroom.Caption",
  nodeCreated(node) {
    if (node.comfyClass !== "Darkroom_AutoCaption") return;
    const inputs = node.constructor.nodeData?.input?.required?.method?.[1]?.darkroom_inputs;
    if (!inputs) return;
    const update = () => show(node, inputs);
    const method = widget(node, "method"), before = method.callback;
    method.callback = function () {
      before?.apply(this, arguments);
      update();
    };
    // A graph that is loaded sets its widgets without a word, and a link comes and goes as it likes.
    for (const event of ["onConfigure", "onConnectionsChange"]) {
      const former = node[event];
      node[event] = function () {
        former?.apply(this, arguments);
        update();
      };
    }
    update();
  },
});
