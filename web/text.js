// The texts of the pack's scripts, in the page's language: locales/<language>/main.json, below "darkroom".
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const known = await api.fetchApi("/i18n").then((answer) => answer.json()).catch(() => ({}));

let chosen = ""; // empty: to be asked for

// Where the user has set none, the page works it out anew for whoever asks, which takes longer than all else in a tile of
// the gallery: so it is asked once a while.
export function language() {
  if (!chosen) {
    chosen = app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en";
    setTimeout(() => { chosen = ""; }, 1000);
  }
  return chosen;
}

// The text of a name, with {values} filled in; in English where a language has none.
export function t(name, values = {}) {
  const spoken = language();
  const found = [spoken, spoken.split("-")[0], "en"].map((one) => known[one]?.darkroom?.[name]).find(Boolean) ?? name;
  return found.replace(/\{(\w+)\}/g, (_, value) => {
    const one = values[value];
    return typeof one === "number" ? one.toLocaleString(spoken) : one ?? "";
  });
}

// A number of things: of "picture" or "step".
export function count(thing, number) {
  return t(number === 1 ? `one_${thing}` : `many_${thing}s`, { number });
}

// A time as people say it: "40 s", "2 min", "3 h 20 min".
export function duration(seconds) {
  if (seconds < 90) return t("seconds", { number: Math.max(1, Math.round(seconds)) });
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return t("minutes", { number: minutes });
  const tens = Math.round(seconds / 600), hours = Math.floor(tens / 6), rest = (tens % 6) * 10;
  if (hours < 48) return t(rest ? "hours_minutes" : "hours", { hours, minutes: rest });
  return t("days", { number: Number((seconds / 86_400).toFixed(1)) });
}
