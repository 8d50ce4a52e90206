// A run in the open graph: a node that loads its LoRA, in the middle of what is seen.
import { app } from "../../../scripts/app.js";
import { keep, set } from "../common.js";

export function addToGraph(run) {
  const node = window.LiteGraph.createNode("Darkroom_LoadTrainedLoRA");
  const { offset, scale } = app.canvas.ds, { clientWidth, clientHeight } = app.canvas.canvas;
  const middle = [clientWidth / 2 / scale - offset[0], clientHeight / 2 / scale - offset[1]];
  node.pos = [Math.round(middle[0] - node.size[0] / 2), Math.round(middle[1] - node.size[1] / 2)];
  (app.canvas.graph ?? app.graph).add(node);
  set(node, "run", run.label);
  set(node, "checkpoint", "best");
  app.canvas.selectNode?.(node);
  keep();
}
