// Walking a graph upstream: what a node's input comes from, through reroutes, bypassed nodes and subgraphs.
import { app } from "../../scripts/app.js";

const SUBGRAPH_INPUT = -10;
const MUTED = 2, BYPASSED = 4;

// The node of the graph above, or further up, that a subgraph is the inside of.
function holder(subgraph, graph = app.rootGraph ?? app.graph) {
  for (const node of graph?.nodes ?? []) {
    if (!node.subgraph) continue;
    if (node.subgraph === subgraph) return node;
    const deeper = holder(subgraph, node.subgraph);
    if (deeper) return deeper;
  }
  return null;
}

function linkOf(graph, id) {
  return id == null ? null : graph?.getLink?.(id) ?? graph?.links?.get?.(id) ?? graph?.links?.[id] ?? null;
}

// {node, slot} that a link into `graph` comes from; null where that cannot be known.
function origin(graph, link, depth) {
  if (!link || depth > 100) return null;
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    const outer = holder(graph);
    return outer ? sourceOf(outer, link.origin_slot, depth + 1) : null;
  }
  const node = graph.getNodeById(link.origin_id);
  if (!node || node.mode === MUTED) return null;
  if (node.mode === BYPASSED || node.type === "Reroute") {
    const type = node.outputs?.[link.origin_slot]?.type;
    const through = node.type === "Reroute" ? 0 : node.inputs?.findIndex((one) => one.type === type);
    return through >= 0 ? sourceOf(node, through, depth + 1) : null;
  }
  if (node.subgraph) {
    const inner = node.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0];
    return origin(node.subgraph, linkOf(node.subgraph, inner), depth + 1);
  }
  return { node, slot: link.origin_slot };
}

function sourceOf(node, slot, depth = 0) {
  return origin(node.graph, linkOf(node.graph, node.inputs?.[slot]?.link), depth);
}

// The node that the input of this name, or the first one of this type, comes from; null if it is not wired.
export function upstream(node, { name, type }) {
  const slot = node.inputs?.findIndex((one) => (name ? one.name === name : one.type === type)) ?? -1;
  return slot < 0 ? null : sourceOf(node, slot)?.node ?? null;
}

// The first node upstream, along inputs of a type, that `wanted` has an answer for.
export function search(node, first, type, wanted) {
  let at = upstream(node, first);
  for (let steps = 0; at && steps < 100; steps += 1) {
    const answer = wanted(at);
    if (answer) return answer;
    at = upstream(at, { type });
  }
  return null;
}

// Names of the inputs of a node's widgets that are wired.
export function wired(node) {
  return (node.inputs ?? []).filter((one) => one.widget && one.link != null).map((one) => one.name);
}

// Where a node is, as the server says it: {workflow: its id, node: the execution id, such as "7:3"}; null if that is not
// known yet.
export function place(node) {
  const root = app.rootGraph ?? app.graph, ids = [node.id];
  for (let graph = node.graph; graph !== root;) {
    const outer = graph && holder(graph);
    if (!outer) return null;
    ids.unshift(outer.id);
    graph = outer.graph;
  }
  return Number(node.id) < 0 ? null : { workflow: root.id ?? "", node: ids.join(":") };
}
