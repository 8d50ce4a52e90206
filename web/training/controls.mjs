// The panel's buttons: what a run that is being trained is asked, until it has answered.
import { ask, element, toast, write } from "../common.js";
import { t } from "../text.js";
import { ENDS } from "./story.mjs";

const LONGEST = 60_000; // ms that an answer is waited for

// {element, asked: "pause", "resume", "keep", "save", "sample" or "", heard(lines), forget(), draw()}. `panel`: whose run
// it is.
export function controls(panel) {
  const row = element("div", "row");
  let asked = "", until = 0;
  const pausing = press(() => (panel.story.paused ? "resume" : "pause"));
  const keeping = press(() => "keep", t("train_keep"), t("train_keep_hint"));
  const saving = press(() => "save", t("train_save"), t("train_save_hint"));
  const sampling = press(() => "sample", t("train_sample"), t("train_sample_hint"));

  function press(action, text = "", hint = "") {
    const one = element("button", "", text);
    one.type = "button";
    one.title = hint;
    one.addEventListener("click", () => {
      if (one.getAttribute("aria-disabled") !== "true") request(action());
    });
    row.append(one);
    return one;
  }

  async function request(action) {
    asked = action;
    until = Date.now() + LONGEST;
    panel.schedule();
    try {
      await ask(`/runs/${encodeURIComponent(panel.run)}/control`, { action });
    } catch (error) {
      forget();
      toast("error", t("train_lora"), error.message);
    }
    panel.schedule();
  }

  function forget() {
    asked = "";
  }

  // Whether lines of the run's journal answer what was asked.
  function heard(lines) {
    const wanted = {
      save: (one) => one.type === "Checkpoint", sample: (one) => one.type === "Sample",
      pause: (one) => one.name === "paused", resume: (one) => one.name === "training" || one.type === "Step",
    }[asked];
    if (lines.some((one) => wanted?.(one) || ENDS.test(one.type))) forget();
  }

  function draw() {
    const { story, host } = panel;
    row.hidden = !story.running || Boolean(host);
    if (Date.now() > until) forget();
    const ends = asked === "keep", busy = asked === "pause" || asked === "resume";
    write(pausing, t(story.paused ? "train_resume" : "train_pause"));
    pausing.title = t(story.paused ? "train_resume_hint" : "train_pause_hint");
    enable(pausing, !ends && !busy);
    enable(keeping, !ends && story.step > 0);
    const unsaved = story.step > 0 && !story.checkpoints.includes(story.step);
    enable(saving, !ends && !story.paused && asked !== "save" && unsaved);
    enable(sampling, !ends && !story.paused && asked !== "sample" && story.phase?.name !== "drawing samples");
  }

  return { element: row, heard, forget, draw, get asked() { return asked; } };
}

// Not `disabled`: that would take the focus from whoever has just pressed it.
function enable(one, on) {
  const off = String(!on);
  if (one.getAttribute("aria-disabled") !== off) one.setAttribute("aria-disabled", off);
}
