// The head of the panel: what is done for the node now and how far it is, in words and as a bar; or how it has ended.
import { element, write } from "../common.js";
import { expected } from "../estimate.js";
import { plain } from "../messages/plain.mjs";
import { count, duration, t } from "../text.js";

const PHASES = {
  "reading the data set": "train_reading", "looking at the base model": "train_looking",
  "reading the texts": "train_reading", "looking at the language model": "train_looking",
  "encoding captions": "train_encoding_captions", "encoding images": "train_encoding_images",
  "starting the worker": "train_starting", "loading the base model": "train_loading",
  "trying a step": "train_trying", training: "train_training", "drawing samples": "train_drawing",
  "waiting for its turn": "train_turn", paused: "train_paused", queued: "train_queued", stopping: "train_stopping",
};
const MARKS = { run: "▶", rest: "❚❚", end: "✔", stop: "■", fail: "✖", wait: "…" };

// {elements, draw()}. `panel`: whose run it is.
export function progress(panel) {
  const head = element("div", "head"), mark = element("span", ""), name = element("span", "name");
  const left = element("span", "left"), bar = element("div", "bar");
  const aloud = element("div", "aside"); // of what happens, only what is new is read out
  mark.setAttribute("aria-hidden", "true");
  head.append(mark, name, left);
  bar.append(element("div", ""));
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-label", t("train_progress"));
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  aloud.setAttribute("role", "status");
  let read = "", pace = null;

  // {name, done, total, t} of what is done now; null if nothing is.
  function doing() {
    const { story, host, waits } = panel;
    if (host) return host;
    if (panel.turn) return { name: panel.turn, done: 0, total: 0, t: story.now() };
    if (waits) return { name: "queued", done: 0, total: 0, t: waits / 1000 };
    if (story.running && panel.controls.asked === "keep") return { ...story.phase, name: "stopping" };
    return story.running || (!story.end && story.run?.state === "running") ? story.phase : null;
  }

  // {text, sign, time, part}: of `part`, null is unknown.
  function now(done) {
    const { story } = panel, known = PHASES[done.name.toLowerCase()];
    const shown = known ? t(known) : done.name[0].toUpperCase() + done.name.slice(1);
    const far = ["training", "paused", "stopping"].includes(done.name), { total } = done;
    const of = far ? t("step_of", { step: story.step, total: story.total })
      : total ? t("train_of", { done: Math.min(done.done + 1, total), total }) : "";
    const seconds = secondsLeft(done);
    return {
      text: [panel.trial, shown, of].filter(Boolean).join(" · "),
      sign: { queued: MARKS.wait, "waiting for its turn": MARKS.wait, paused: MARKS.rest }[done.name] ?? MARKS.run,
      time: seconds !== null && done.name !== "paused" ? t("left", { time: duration(seconds) }) : "",
      part: far ? story.step / Math.max(1, story.total) : total ? done.done / total : null,
    };
  }

  function ended() {
    const { story, said, failure } = panel, { end } = story;
    if (failure && panel.early) return { text: t("train_failed"), sign: MARKS.fail, time: "", part: null };
    const step = { step: story.step || story.run?.step || 0, total: story.total };
    const part = story.total ? story.step / story.total : null;
    if (end?.type === "RunFailed" || (failure && end?.type !== "RunStopped")) {
      const text = [t("train_failed"), step.step && t("step_of", step)].filter(Boolean).join(" · ");
      return { text, sign: MARKS.fail, time: "", part };
    }
    if (end?.type === "RunFinished" || story.run?.state === "finished") {
      const outcome = /^\d+ steps/.test(said[0]) ? plain(said[0]) : count("step", end?.step ?? step.step);
      return { text: `${t("train_finished")} · ${outcome}`, sign: MARKS.end, time: "", part };
    }
    if (story.run) return { text: `${t("train_stopped")} · ${t("step_of", step)}`, sign: MARKS.stop, time: "", part };
    return { text: "", sign: "", time: "", part };
  }

  // To the end of the whole, as far as that can be known.
  function secondsLeft(done) {
    const { story } = panel;
    if (["training", "drawing samples", "paused", "stopping"].includes(done.name)) {
      if (!story.left || done.name === "stopping") return null;
      return Math.max(1, story.left.seconds - (done.name === "paused" ? 0 : story.now() - story.left.t));
    }
    const training = story.begun && story.left ? story.left.seconds : expected(panel.node);
    if (!done.total) return training;
    if (pace?.name !== done.name) pace = { name: done.name, done: done.done, at: performance.now() };
    const since = done.done - pace.done;
    if (!since) return training;
    const each = (performance.now() - pace.at) / 1000 / since;
    return each * (done.total - done.done) + (training ?? 0);
  }

  function draw() {
    const done = doing(), { text, sign, time, part } = done ? now(done) : ended();
    write(mark, sign);
    write(name, text);
    write(left, time);
    head.classList.toggle("failed", sign === MARKS.fail);
    bar.hidden = !done;
    bar.classList.toggle("still", part === null);
    bar.firstChild.style.transform = part === null ? "" : `scaleX(${Math.min(1, part).toFixed(4)})`;
    if (part === null) bar.removeAttribute("aria-valuenow");
    else bar.setAttribute("aria-valuenow", String(Math.round(part * 100)));
    bar.setAttribute("aria-valuetext", [text, time].filter(Boolean).join(", "));
    const news = done ? done.name : text;
    if (news !== read) write(aloud, text);
    read = news;
  }

  return { elements: [head, bar, aloud], draw };
}
