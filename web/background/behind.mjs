// What a graph draws with what a node hands on: the output nodes behind it, through reroutes, bypassed nodes and subgraphs.
import { app } from "../../../scripts/app.js";
import { place } from "../graph.js";

const SUBGRAPH_OUTPUT = -20;
const MUTED = 2, BYPASSED = 4;
const TRAINS = new Set(["Darkroom_TrainLoRA", "Darkroom_TrainingSweep"]); // what is behind these needs another training
const KEEPS = new Set(["Darkroom_SaveLoRA"]); // no picture, but a file at each checkpoint

function linkOf(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null;
}

// Execution ids of output nodes, such as "12" or "7:3".
export function behind(node) {
  const found = new Set(), seen = new Set();
  const ids = place(node)?.node.split(":") ?? [];
  let graph = app.rootGraph ?? app.graph;
  const chain = ids.slice(0, -1).map((id) => { // the subgraphs that the node is in, from outside
    const outer = graph.getNodeById(Number(id)) ?? graph.getNodeById(id);
    graph = outer.subgraph;
    return outer;
  });

  const along = (chain, graph, links) => links?.forEach((id) => {
    const link = linkOf(graph, id);
    if (link) reach(chain, graph, link);
  });
  const onward = (chain, one) => one.outputs?.forEach((output) => along(chain, one.graph, output.links));

  function reach(chain, graph, link) {
    if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
      const outer = chain.at(-1);
      if (outer) along(chain.slice(0, -1), outer.graph, outer.outputs?.[link.target_slot]?.links);
      return;
    }
    const one = graph.getNodeById(link.target_id);
    if (!one || one.mode === MUTED || TRAINS.has(one.comfyClass)) return;
    const id = [...chain, one].map((each) => each.id).join(":");
    const key = one.subgraph ? `${id}/${link.target_slot}` : id;
    if (seen.has(key)) return;
    seen.add(key);
    if (one.subgraph && one.mode !== BYPASSED) {
      along([...chain, one], one.subgraph, one.subgraph.inputs?.[link.target_slot]?.linkIds);
      return;
    }
    const draws = one.constructor.nodeData?.output_node && one.mode !== BYPASSED && !KEEPS.has(one.comfyClass);
    if (draws) found.add(id);
    onward(chain, one);
  }

  onward(chain, node);
  return [...found];
}
