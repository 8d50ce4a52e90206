// What is said of a run in words, below its pictures: why it ended, the diagnosis, warnings; and the rest, folded away.
import { element } from "../common.js";
import { says } from "../estimate.js";
import { plain } from "../messages/plain.mjs";
import { t } from "../text.js";

// {elements, draw()}. `panel`: whose run it is.
export function words(panel) {
  const open = element("div", "words"), folded = element("details", "");
  folded.append(element("summary", ""), element("div", "words"));
  let drawn = ""; // what is on the page

  // [mark, text, cure] of each line.
  function lines() {
    const { story, failure } = panel, { end, best } = story, active = panel.active(), found = [];
    if (failure) found.push(["✖", failure]);
    else if (end?.type === "RunFailed" && !active) found.push(["✖", end.message, end.cure]);
    if (end?.type === "RunStopped" && !active) found.push(["■", t("train_goes_on")]);
    if (end?.stopped && !active) found.push(["■", end.stopped]);
    for (const one of story.advice) if (one.kind === "diagnosis") found.push(["★", one.message, one.cure]);
    if (best && best.step < story.step && !active) {
      found.push(["▲", `${t("train_best_step", { step: best.step })}: ${plain(best.reason)}`]);
    }
    for (const one of story.advice) {
      // What is said of the next run already need not be said again of this one.
      if (one.kind === "warning" && !says(panel.node, plain(one.message))) found.push(["⚠", one.message, one.cure]);
    }
    for (const text of story.warnings) found.push(["⚠", text]);
    return found;
  }

  function draw() {
    const { story, said, run } = panel, found = lines(), more = [];
    const known = new Set(found.map(([, text]) => text));
    for (const one of said) {
      const note = one.startsWith("- ") && one.slice(2);
      if (note && !known.has(note)) (/^(memory|trained in) /.test(note) ? more : found).push(["•", note]);
    }
    for (const one of story.chosen) more.push(["•", `${one.field}: ${one.value}`, one.why]);
    for (const one of story.advice) if (one.kind === "note") more.push(["•", one.message, one.cure]);
    if (story.plan?.how) more.push(["•", story.plan.how]);
    if (run) more.push(["•", t("train_run", { run: story.run?.label ?? run })]);
    const now = JSON.stringify([found, more]);
    if (now === drawn) return;
    drawn = now;
    open.replaceChildren(...found.map(line));
    open.hidden = !found.length;
    folded.hidden = !more.length;
    folded.firstChild.textContent = t("train_more");
    folded.lastChild.replaceChildren(...more.map(line));
  }

  return { elements: [open, folded], draw };
}

function line([mark, text, cure = ""]) {
  const one = element("p", mark === "⚠" ? "warn" : mark === "✖" ? "error" : ""), sign = element("span", "mark", mark);
  sign.setAttribute("aria-hidden", "true");
  one.append(sign, plain(text));
  if (cure) one.append(element("span", "cure", ` → ${plain(cure)}`));
  return one;
}
