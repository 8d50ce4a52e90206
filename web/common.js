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

const STYLE = `
.darkroom-panel { display: flex; flex-direction: column; gap: 6px; font: 12px/1.4 system-ui, sans-serif;
  color: var(--input-text, #ddd); overflow-wrap: anywhere; user-select: text; }
.darkroom-panel .row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.darkroom-panel .dim { color: var(--descrip-text, #999); }
.darkroom-panel .warn { color: #e0a030; }
.darkroom-panel .error { color: var(--error-text, #ff6060); }
.darkroom-panel .lines { white-space: pre-line; max-height: 13em; overflow-y: auto; }
.darkroom-panel button, .darkroom-panel select, .darkroom-panel input { font: inherit; color: inherit;
  background: var(--comfy-input-bg, #333); border: 1px solid var(--border-color, #555); border-radius: 6px;
  padding: 3px 10px; }
.darkroom-panel button { cursor: pointer; }
.darkroom-panel button:hover:enabled { filter: brightness(1.25); }
.darkroom-panel button:disabled { opacity: 0.5; cursor: default; }
.darkroom-panel img { max-width: 100%; border-radius: 4px; }
`;

// A <div> at the end of a node, for lines, buttons and pictures; the node grows with what is put into it. It is in no
// file and no prompt. Classes for what is in it: row, dim, warn, error, lines.
export function panel(node, name) {
  if (!document.getElementById("darkroom-style")) {
    const style = document.createElement("style");
    style.id = "darkroom-style";
    style.textContent = STYLE;
    document.head.append(style);
  }
  const inner = document.createElement("div");
  inner.className = "darkroom-panel";
  const outer = document.createElement("div");
  outer.append(inner);
  const margin = 8;
  const height = () => (inner.childNodes.length ? inner.offsetHeight + 2 * margin : 0);
  const holder = node.addDOMWidget(name, "darkroom_panel", outer, {
    serialize: false, hideOnZoom: false, margin, getMinHeight: height, getMaxHeight: height,
  });
  holder.serialize = false;
  let last = 0;
  let own = null; // the node's height as set here; null while it is higher, as saved in a file or made by the user
  new ResizeObserver(() => {
    const now = height();
    if (now === last || !inner.offsetWidth) return;
    last = now;
    const [width, tall] = node.size, least = node.computeSize()[1];
    const byOthers = own === null || Math.abs(tall - own) > 24;
    own = byOthers && tall > least ? null : least;
    node.setSize([width, own ?? tall]);
    node.setDirtyCanvas?.(true, true);
  }).observe(inner);
  return inner;
}

// A button that cannot be pressed again while what it started goes on; what that throws is shown.
export function button(text, action) {
  const one = document.createElement("button");
  one.type = "button";
  one.textContent = text;
  one.addEventListener("click", async () => {
    one.disabled = true;
    try {
      await action();
    } catch (error) {
      toast("error", text, error.message);
    } finally {
      one.disabled = false;
    }
  });
  return one;
}
