// What is known of a run, in words, figures and curves; and asking for it, a few runs at a time.
import { api } from "../../../scripts/api.js";
import { smoothed } from "../charts/smoothed.mjs";
import { ask } from "../common.js";
import { t } from "../text.js";

const AT_ONCE = 3; // runs that are asked for
const MARKS = { running: "▶", finished: "✓", stopped: "■", failed: "✕" }; // a state is told by its word and its shape
const SIGNALS = [ // of a validation; the kind of its curve, and its name
  ["held_out", "validation", "runs_held_out"], ["train", "train", "runs_train"], ["drift", "drift", "runs_drift"],
];
const waiting = [];
let busy = 0;

// As many tasks at a time as a server likes. A task that is no longer wanted when its turn comes is left out.
export function inTurn(task, wanted = () => true) {
  return new Promise((done, fail) => {
    waiting.push({ task, wanted, done, fail });
    next();
  });
}

function next() {
  while (busy < AT_ONCE && waiting.length) {
    const { task, wanted, done, fail } = waiting.shift();
    if (!wanted()) {
      done(null);
      continue;
    }
    busy += 1;
    task().then(done, fail).finally(() => {
      busy -= 1;
      next();
    });
  }
}

export const one = (run, more = "") => `/runs/${encodeURIComponent(run)}${more}`;
export const story = (run) => ask(one(run, "/story"));
export const size = async (run) => (await ask(one(run, "/size"))).bytes;
export const settings = async (run) => {
  const { output_dir: itself, ...others } = (await ask(one(run))).config; // its folder is called as the run is
  return others;
};
export const picture = (run, name) => api.apiURL(`/darkroom${one(run, `/samples/${encodeURIComponent(name)}`)}`);

// What a run is called where there are others of its name.
export const called = (run) => `${run.name} ${run.id.slice(0, 4)}`;

// The state as a shape and a word.
export function stated(state) {
  return { mark: MARKS[state] ?? "", word: t(state) };
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = number > 0 ? Math.min(units.length - 1, Math.floor(Math.log10(number) / 3)) : 0;
  const value = number / 1000 ** power;
  return `${value.toLocaleString([], { maximumFractionDigits: value < 10 && power > 1 ? 1 : 0 })} ${units[power]}`;
}

export function when(seconds) {
  const date = new Date(seconds * 1000), year = date.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return date.toLocaleString([], { year, month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
}

// A run's validations of one signal.
export function validated(told, signal) {
  return told.validations.filter((one) => one.signal === signal).map((one) => [one.step, one.loss]);
}

// Everything of one run for its chart.
export function curves(told) {
  const raw = told.losses.map(([step, loss]) => [step, loss]);
  return [
    { name: t("runs_loss_raw"), kind: "raw", points: raw },
    { name: t("runs_loss"), kind: "smooth", points: smoothed(raw) },
    ...SIGNALS.map(([signal, kind, name]) => ({ name: t(name), kind, points: validated(told, signal) })),
  ];
}

// A line that tells the course of a run at a glance; it is in no one's way who cannot see it.
export function spark(told) {
  const points = smoothed(told.losses).filter((one) => one[1] !== null), values = points.map((one) => one[1]);
  if (points.length < 2) return null;
  const first = points[0][0], last = points.at(-1)[0], low = Math.min(...values), high = Math.max(...values);
  const across = (step) => 100 * (step - first) / (last - first || 1);
  const down = (value) => 26 - 24 * (value - low) / (high - low || 1);
  const few = points.filter((_, index) => index % Math.ceil(points.length / 100) === 0 || index === points.length - 1);
  const line = few.map(([step, value]) => `${across(step).toFixed(1)},${down(value).toFixed(1)}`).join(" ");
  const holder = document.createElement("span"), best = told.run.best?.step;
  const marked = best >= first && best <= last;
  holder.innerHTML = `<svg class="spark" viewBox="0 0 100 28" preserveAspectRatio="none" aria-hidden="true">
    ${marked ? `<path class="best" d="M${across(best).toFixed(1)} 0V28"/>` : ""}<polyline points="${line}"/></svg>`;
  return holder.firstElementChild;
}

// The sample to show a run by: the first one of the best step, or of the last before it that has some.
export function bestSample(told) {
  const some = told.samples.filter((one) => one.picture || one.answer);
  const best = told.run.best?.step ?? Infinity;
  const before = some.filter((one) => one.step <= best);
  const step = Math.max(...(before.length ? before : some).map((one) => one.step));
  return some.find((one) => one.step === step) ?? null;
}
