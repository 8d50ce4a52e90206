// What the pack's scripts share: asking its routes, and finding widgets.
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
