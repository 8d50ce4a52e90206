// The panel's figures: the last ones of the run as numbers, and all of its losses as curves.
import { curve, figure } from "../charts/curve.mjs";
import { smoothed } from "../charts/smoothed.mjs";
import { element, write } from "../common.js";
import { t } from "../text.js";

const SIGNALS = {
  held_out: ["validation", "train_held_out"], train: ["train", "train_on_training"], drift: ["drift", "train_drift"],
};

// {elements, draw(), destroy()}. `panel`: whose run it is.
export function figures(panel) {
  const stats = element("dl", "stats"), chart = curve({ height: 150, label: t("train_curves") });
  let drawn = []; // what is on the page

  function draw() {
    drawStats(panel.story);
    drawChart(panel.story);
  }

  function drawStats(story) {
    const last = story.losses.at(-1);
    stats.hidden = !last;
    if (!last) return;
    const [, , rate, seconds, memory] = last;
    const free = story.plan?.free;
    const shown = [
      [t("train_rate"), figure(rate)],
      [t("train_pace"), t("train_seconds", { number: figure(Number(seconds.toPrecision(3))) })],
      [t("train_memory"), memory ? `${(memory / 1e9).toFixed(1)} GB` : "–",
        free ? t("train_memory_hint", { free: (free / 1e9).toFixed(1) }) : ""],
      [t("train_saved"), story.checkpoints.length ? t("train_at_step", { step: story.checkpoints.at(-1) }) : "–"],
    ];
    while (stats.children.length < shown.length) {
      const one = element("div", "");
      one.append(element("dt", ""), element("dd", ""));
      stats.append(one);
    }
    shown.forEach(([name, value, hint = ""], index) => {
      const one = stats.children[index];
      write(one.firstChild, name);
      write(one.lastChild, value);
      if (one.title !== hint) one.title = hint;
    });
  }

  function drawChart(story) {
    const now = [story, story.losses.length, story.seq, story.best?.step];
    chart.element.hidden = !story.losses.length;
    if (now.every((one, index) => one === drawn[index])) return;
    drawn = now;
    const raw = story.losses.map(([step, loss]) => [step, loss]);
    const series = [
      { name: t("train_loss"), kind: "raw", points: raw },
      { name: t("train_smoothed"), kind: "smooth", points: smoothed(raw) },
    ];
    for (const [signal, [kind, name]] of Object.entries(SIGNALS)) {
      const points = story.validations.filter((one) => one.signal === signal).map((one) => [one.step, one.loss]);
      if (points.length) series.push({ name: t(name), kind, points });
    }
    const marks = story.best && story.validations.length ? [{ step: story.best.step, name: t("best") }] : [];
    chart.update({ series, marks });
  }

  return { elements: [stats, chart.element], draw, destroy: () => chart.destroy() };
}
