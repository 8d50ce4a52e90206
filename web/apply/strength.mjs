// The strength of Apply LoRA as a slider that is marked where LoRAs are mostly used, and the checkpoint beside it. The
// widget stays what counts: the slider follows it, however it is set, and cannot reach as far.
import { app } from "../../../scripts/app.js";
import { dress, element, keep, set, widget } from "../common.js";
import { wired } from "../graph.js";
import { t } from "../text.js";
import { origin } from "./origin.mjs";

const MOST = 1.5, STEP = 0.05, LOW = 0.7, HIGH = 0.8; // the usual strengths
const LOOK_EVERY = 300; // ms; a graph that is loaded, or undone, sets its widgets without a word
const STYLE = `
.darkroom-strength { display: flex; flex-direction: column; gap: 4px; container-type: inline-size; }
.darkroom-strength .apart { justify-content: space-between; }
.darkroom-strength output { font-variant-numeric: tabular-nums; }
.darkroom-strength .scale { --thumb: 14px; position: relative; height: 38px; }
.darkroom-strength .scale > * { position: absolute; white-space: nowrap; }
.darkroom-panel .darkroom-strength input[type=range] { inset: 0 0 auto 0; width: 100%; height: 18px; margin: 0; padding: 0;
  border: 0; background: none; appearance: none; cursor: pointer; z-index: 1; border-radius: 9px; }
.darkroom-strength input::-webkit-slider-runnable-track { height: 4px; border-radius: 2px;
  background: var(--border-color, #555); }
.darkroom-strength input::-moz-range-track { height: 4px; border-radius: 2px; background: var(--border-color, #555); }
.darkroom-strength input::-webkit-slider-thumb { appearance: none; width: var(--thumb); height: var(--thumb);
  margin-top: -5px; border-radius: 50%; border: 0; background: var(--p-primary-color, #3b82f6); }
.darkroom-strength input::-moz-range-thumb { width: var(--thumb); height: var(--thumb); border-radius: 50%; border: 0;
  background: var(--p-primary-color, #3b82f6); }
.darkroom-strength input:disabled { cursor: default; opacity: 0.45; }
.darkroom-strength input:focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6); }
.darkroom-strength .tick { top: 17px; width: 1px; height: 5px; background: var(--descrip-text, #999); }
.darkroom-strength .tick span { position: absolute; top: 6px; transform: translateX(-50%); font-size: 10px;
  color: var(--descrip-text, #999); }
.darkroom-strength .tick.end span { transform: translateX(calc(-100% + 5px)); }
.darkroom-strength .usual { top: 15px; height: 5px; border: 1.5px solid var(--input-text, #ddd); border-top: 0; }
.darkroom-strength .usual span { position: absolute; top: 7px; left: 50%; transform: translateX(-50%); font-size: 10px;
  font-weight: 600; }
`;
const shown = new Map(); // node -> look
let timer = 0;

// Fills a place on the node; returns what ends it.
export function show(node, place) {
  dress("darkroom-strength-style", STYLE);
  const outer = element("div", "darkroom-strength"), head = element("div", "row apart"), scale = element("div", "scale");
  const label = element("label", "", t("apply_strength")), value = element("output", "");
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: MOST, step: STEP, id: `darkroom-strength-${Math.random().toString(36).slice(2)}` });
  label.htmlFor = slider.id;
  head.append(label, value);
  scale.append(slider, usual(), ...[0, 0.5, 1, MOST].map(tick));
  const from = origin(node);
  outer.append(head, scale, from.element);
  place.append(outer);

  // A language model's LoRA, or one without MODEL, counts by the other strength.
  const used = () => {
    const has = (name) => node.inputs?.find((one) => one.name === name)?.link != null;
    return has("clip") && !has("model") ? "strength_clip" : "strength_model";
  };

  slider.addEventListener("input", () => {
    const name = used(), other = name === "strength_model" ? "strength_clip" : "strength_model", links = wired(node);
    // Who has not told them apart moves both.
    const both = Number(widget(node, other)?.value) === Number(widget(node, name).value) && !links.includes(other);
    const now = Number(slider.value);
    set(node, name, now);
    if (both) set(node, other, now);
    look();
  });
  slider.addEventListener("change", keep);
  // The page drags nodes with the pointer, and moves them with the arrow keys.
  for (const event of ["pointerdown", "mousedown", "keydown"]) slider.addEventListener(event, (one) => one.stopPropagation());

  let seen = "";
  function look() {
    const name = used(), now = Number(widget(node, name)?.value), link = wired(node).includes(name);
    const state = `${name} ${now} ${link}`;
    if (state !== seen) {
      seen = state;
      const words = link ? t("apply_wired") : t(now < LOW ? "apply_below" : now > HIGH ? "apply_above" : "apply_usual");
      slider.value = String(now);
      slider.disabled = link;
      value.textContent = link ? words : `${now.toFixed(2)} · ${words}`;
      slider.setAttribute("aria-valuetext", value.textContent);
    }
    from.look();
  }

  const before = new Map();
  for (const name of ["strength_model", "strength_clip"]) {
    const one = widget(node, name);
    if (!one) continue;
    before.set(one, one.callback);
    one.callback = function () {
      before.get(one)?.apply(this, arguments);
      look();
    };
  }
  shown.set(node, look);
  timer ||= setInterval(lookAtAll, LOOK_EVERY);
  look();
  return () => {
    shown.delete(node);
    if (!shown.size) {
      clearInterval(timer);
      timer = 0;
    }
    from.destroy();
    outer.remove();
  };
}

function lookAtAll() {
  if (document.hidden) return;
  for (const [node, look] of shown) {
    if (node.graph && (node.graph === app.canvas?.graph || node.graph === app.graph)) look();
  }
}

// The places of the slider's thumb, whose middle does not reach its ends.
const at = (value) => `calc(var(--thumb) / 2 + (100% - var(--thumb)) * ${value / MOST})`;

function tick(value) {
  const one = element("div", value === MOST ? "tick end" : "tick");
  one.setAttribute("aria-hidden", "true");
  one.style.left = at(value);
  one.append(element("span", "", value.toLocaleString()));
  return one;
}

function usual() {
  const one = element("div", "usual");
  one.setAttribute("aria-hidden", "true");
  one.style.left = at(LOW);
  one.style.width = `calc((100% - var(--thumb)) * ${(HIGH - LOW) / MOST})`;
  one.append(element("span", "", `${LOW.toLocaleString()}–${HIGH.toLocaleString()}`));
  return one;
}
