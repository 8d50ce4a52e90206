// What the pack's scripts share: asking its routes, finding widgets, and a place on a node for what is no widget.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

// The JSON of a route below /darkroom; throws an Error with the server's own words.
export async function ask(path, data) {
  const options = data === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data),
  };
  const response = await api.fetchApi(`/darkroom${path}`, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error([answer.error ?? response.statusText, answer.cure].filter(Boolean).join("\n"));
  }
  return answer;
}

// severity: success, info, warn, error.
export function toast(severity, summary, detail, life = 8000) {
  app.extensionManager.toast.add({ severity, summary, detail, life });
}

export function widget(node, name) {
  return node.widgets?.find((one) => one.name === name);
}

// Sets a widget as a user does: whoever listens is told.
export function set(node, name, value) {
  const one = widget(node, name);
  one.value = value;
  one.callback?.(value, app.canvas, node);
  node.setDirtyCanvas?.(true, true);
}

// The page notices what changes by a click; after what came later a reload would forget it.
export function keep() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

export function element(tag, className, text = "") {
  const one = document.createElement(tag);
  one.className = className;
  one.textContent = text;
  return one;
}

// Sets a text, unless it is that already: then nothing is drawn anew, or read out again.
export function write(one, text) {
  if (one.textContent !== text) one.textContent = text;
}

// Puts CSS into the page, once.
export function dress(id, css) {
  if (document.getElementById(id)) return;
  const style = element("style", "", css);
  style.id = id;
  document.head.append(style);
}

// Runs with a node's output whenever the node has run.
export function onExecuted(node, action) {
  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.apply(this, arguments);
    action(output);
  };
}

// Of what failed. Mixed with the text's own colour: alone it stands out too little from a light ground.
export const ERROR = "color-mix(in srgb, var(--error-text, #f44) 60%, var(--input-text, #ddd))";

const STYLE = `
.darkroom-panel { display: flex; flex-direction: column; gap: 6px; font: 12px/1.4 system-ui, sans-serif;
  color: var(--input-text, #ddd); overflow-wrap: anywhere; user-select: text; }
.darkroom-panel .section { display: flex; flex-direction: column; gap: 6px; }
.darkroom-panel .section:empty, .darkroom-panel [hidden] { display: none; }
.darkroom-panel .row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.darkroom-panel .dim { color: var(--descrip-text, #999); }
.darkroom-panel .warn { color: color-mix(in srgb, #e09000 65%, var(--input-text, #ddd)); }
.darkroom-panel .error { color: ${ERROR}; }
.darkroom-panel .lines { white-space: pre-line; max-height: 13em; overflow-y: auto; }
.darkroom-panel button, .darkroom-panel select, .darkroom-panel input { font: inherit; color: inherit;
  background: var(--comfy-input-bg, #333); border: 1px solid var(--border-color, #555); border-radius: 6px;
  padding: 3px 10px; }
.darkroom-panel button { cursor: pointer; }
.darkroom-panel button:hover:enabled { filter: brightness(1.25); }
.darkroom-panel button:disabled, .darkroom-panel button[aria-disabled="true"] { opacity: 0.5; cursor: default; }
.darkroom-panel img { max-width: 100%; border-radius: 4px; }
`;

const holders = new WeakMap(); // node -> the one <div> that its panels lie in

// A <div> at the end of a node, for lines, buttons and pictures; the node grows with what is put into it. It is in no
// file and no prompt. Classes for what is in it: row, dim, warn, error, lines. Several of a node share one widget: Nodes
// 2.0 shows no second one of a kind. They lie by their `rank`: which script comes first, differs.
export function panel(node, rank = 0) {
  if (!holders.has(node)) holders.set(node, holder(node));
  const inner = holders.get(node), one = element("div", "section");
  one.rank = rank;
  return inner.insertBefore(one, [...inner.children].find((other) => other.rank > rank) ?? null);
}

function holder(node) {
  dress("darkroom-style", STYLE);
  const inner = element("div", "darkroom-panel");
  const outer = document.createElement("div");
  outer.append(inner);
  const margin = 8;
  // Before the page has given it a width, its text is one word a line.
  const height = () => (inner.offsetWidth && inner.offsetHeight ? inner.offsetHeight + 2 * margin : 0);
  const one = node.addDOMWidget("darkroom", "darkroom_panel", outer, {
    serialize: false, hideOnZoom: false, margin, getMinHeight: height, getMaxHeight: height,
  });
  one.serialize = false;
  let last = 0;
  new ResizeObserver(() => {
    const now = height();
    if (now === last || !inner.offsetWidth) return;
    if (!window.LiteGraph?.vueNodesMode) fit(node, Math.max(now, last) - now);
    last = now;
  }).observe(inner);
  return inner;
}

// As tall as what is in a node wants it. What the user made larger stays larger; what only held the former content, which
// was taller by `shrunk`, does not. Nodes 2.0 does this by itself.
export function fit(node, shrunk = 0) {
  const needed = node.computeSize()[1], spare = node.size[1] - needed - shrunk;
  node.setSize([node.size[0], needed + (spare < 24 ? 0 : spare)]);
  node.setDirtyCanvas?.(true, true);
}

// A button that cannot be pressed again while what it started goes on; what that throws is shown. Not `disabled`: that
// would take the focus from whoever has just pressed it.
export function button(text, action) {
  const one = element("button", "", text);
  one.type = "button";
  one.addEventListener("click", async () => {
    if (one.ariaDisabled === "true") return;
    one.ariaDisabled = "true";
    try {
      await action();
    } catch (error) {
      toast("error", text, error.message);
    } finally {
      one.ariaDisabled = "false";
    }
  });
  return one;
}
