// The page makes all nodes anew at every undo, and whenever a graph is opened. What a node said is shown on the one that
// comes in its place; and nodes in subgraphs, which the page lets go without a word, are told that they are gone.
import { app } from "../../scripts/app.js";
import { onExecuted } from "./common.js";
import { place } from "./graph.js";

const here = new Set(), actions = new Map(); // nodes; node -> what shows its output
const said = new Map(); // where a node is -> its last output

function key(node) {
  const at = node.graph && place(node);
  return at && JSON.stringify([at.workflow, at.node, node.comfyClass]);
}

// Runs with a node's output whenever it has run, and with the last one when it was made anew.
export function onSaid(node, action) {
  actions.set(node, action);
  onExecuted(node, (output) => {
    const at = key(node);
    if (at) said.set(at, output);
    action(output);
  });
}

app.registerExtension({
  name: "LoRADarkroom.Nodes",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Darkroom_")) return;
    here.add(node);
    const before = node.onRemoved;
    node.onRemoved = function () {
      here.delete(node);
      actions.delete(node);
      before?.apply(this, arguments);
    };
  },
  afterConfigureGraph() {
    const root = app.rootGraph ?? app.graph;
    for (const node of [...here]) {
      const { graph } = node;
      if (graph && graph !== root && root.subgraphs?.get(graph.id) !== graph) node.onRemoved();
    }
    for (const [node, action] of actions) {
      const output = said.get(key(node));
      if (output) action(output);
    }
  },
});
