// Runs side by side: their curves over each other, their best samples, and of their settings those that differ.
import { element } from "../common.js";
import { curve } from "../charts/curve.mjs";
import { smoothed } from "../charts/smoothed.mjs";
import { t } from "../text.js";
import { bestSample, called, inTurn, picture, settings, story, validated } from "./facts.mjs";
import { written } from "./row.mjs";

// {element, destroy()}; `back` is called when the reader has seen enough.
export function compare(runs, back) {
  const outer = element("div", "body compare"), top = element("div", "row apart"), content = element("div", "details");
  const title = element("h3", "", t("runs_comparing", { number: runs.length })), leave = element("button", "", `← ${t("runs_back")}`);
  leave.type = "button";
  leave.addEventListener("click", back);
  outer.addEventListener("keydown", (event) => { if (event.key === "Escape") back(); });
  top.append(title, leave);
  outer.append(top, content);
  let chart = null, alive = true;
  content.textContent = "…";
  Promise.all(runs.map((run) => inTurn(
    () => Promise.all([story(run.id), settings(run.id)]), () => alive,
  ))).then((found) => {
    if (!alive) return;
    chart = curve({ height: 220, label: t("runs_compare_curves") });
    content.replaceChildren(chart.element, samples(runs, found), table(runs, found));
    chart.update({ series: series(runs, found) });
  }).catch((error) => { content.replaceChildren(element("div", "error", error.message)); });
  return {
    element: outer,
    begin: () => leave.focus(),
    destroy() {
      alive = false;
      chart?.destroy();
      outer.remove();
    },
  };
}

function series(runs, found) {
  const lines = runs.map((run, index) => ({ name: called(run), kind: "smooth", points: smoothed(found[index][0].losses) }));
  const held = runs.map((run, index) => ({
    name: `${called(run)}, ${t("runs_held_out")}`, kind: "validation", points: validated(found[index][0], "held_out"),
  }));
  return [...lines, ...held.some((one) => one.points.length) ? held : []];
}

function samples(runs, found) {
  const side = element("div", "side");
  runs.forEach((run, index) => {
    const sample = bestSample(found[index][0]), one = element("figure", "");
    if (sample?.picture) {
      const image = element("img", "");
      Object.assign(image, { src: picture(run.id, sample.picture), alt: sample.prompt });
      one.append(image);
    } else if (sample) {
      one.append(element("blockquote", "small", sample.answer));
    }
    const best = run.best ? t("runs_best_at", { step: String(run.best.step) }) : "";
    one.append(element("figcaption", "small", [called(run), best].filter(Boolean).join(" · ")));
    side.append(one);
  });
  return side;
}

function table(runs, found) {
  const all = found.map((one) => one[1]), fields = [...new Set(all.flatMap(Object.keys))];
  const differs = fields.filter((field) => new Set(all.map((one) => JSON.stringify(one[field] ?? null))).size > 1);
  if (!differs.length) return element("div", "dim", t("runs_same"));
  const outer = element("div", "wide"), one = document.createElement("table"), caption = one.createCaption();
  caption.className = "hidden";
  caption.textContent = t("runs_differ");
  const head = one.createTHead().insertRow(), body = one.createTBody();
  const heading = (row, text, scope) => {
    const cell = element("th", "", text);
    cell.scope = scope;
    row.append(cell);
  };
  heading(head, t("runs_setting"), "col");
  for (const run of runs) heading(head, called(run), "col");
  for (const field of differs) {
    const line = body.insertRow();
    heading(line, field, "row");
    for (const values of all) line.insertCell().textContent = values[field] == null ? "–" : written(values[field]);
  }
  outer.append(one);
  return outer;
}
