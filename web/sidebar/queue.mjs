// The runs that wait for their turn, above the list: what is at work, and the order of the rest.
import { ask, button, element } from "../common.js";
import { plain } from "../messages/plain.mjs";
import { t } from "../text.js";
import { called } from "./facts.mjs";

const ANOTHERS = "(another's)"; // of another profile: it is there, and that is all

// Fills `place` with a queue, as GET /queue tells it. `find(id)` is the run of an id, if it is in the list. While only the
// run that is at work goes on, all else stays: a button that is being pressed must not go away.
export function showQueue(place, queue, find, changed) {
  const name = (id) => (id === ANOTHERS ? t("runs_anothers") : find(id) ? called(find(id)) : id);
  const { running, paused, waiting, failed: lost = [], note } = queue;
  const named = [running, ...waiting, ...lost.map((one) => one.run)].map((id) => id && name(id));
  const shown = JSON.stringify([running, paused, waiting, lost, note, named, Boolean(find(running)?.total)]);
  if (place.shown !== shown) fill(place, queue, name, find, changed);
  place.shown = shown;
  const run = find(running);
  if (!run) return;
  place.querySelector(".now").textContent = [
    t(paused ? "runs_gives_way" : "running"), t("step_of", { step: String(run.step), total: String(run.total) }),
  ].join(" · ");
  if (run.total) Object.assign(place.querySelector("progress"), { max: run.total, value: run.step });
}

function fill(place, queue, name, find, changed) {
  const act = async (action, run) => changed(await ask("/queue", { action, run }));
  const small = (text, label, action) => {
    const one = button(text, action);
    one.setAttribute("aria-label", label);
    one.title = label;
    return one;
  };
  const stopping = (id) => {
    const one = small("✕", t("runs_stop_it", { name: name(id) }), () => act("remove", id));
    one.dataset.key = `remove ${id}`;
    return one;
  };
  const ids = [queue.running, ...queue.waiting].filter(Boolean);
  const failed = queue.failed ?? [];
  place.hidden = !ids.length && !failed.length && !queue.note;
  const focused = document.activeElement?.dataset.key; // what was pressed keeps the focus when its line moves
  const list = element("ol", "queue");
  if (queue.running) {
    const line = element("li", ""), words = element("div", "words"), run = find(queue.running);
    words.append(element("div", "", `${queue.paused ? "❚❚" : "▶"} ${name(queue.running)}`));
    words.append(element("div", "dim small now", t(queue.paused ? "runs_gives_way" : "running")));
    if (run?.total) {
      const bar = element("progress", "");
      bar.setAttribute("aria-label", t("runs_progress", { name: name(queue.running) }));
      words.append(bar);
    }
    line.append(words);
    list.append(line);
    if (queue.running !== ANOTHERS) line.append(stopping(queue.running));
  }
  queue.waiting.forEach((id, index) => {
    const line = element("li", ""), words = element("div", "words");
    words.append(element("div", "", `${index + 1}. ${name(id)}`));
    line.append(words);
    list.append(line);
    if (id === ANOTHERS) return;
    const controls = [
      ["up", "↑", "runs_up", index > 0], ["down", "↓", "runs_down", index < queue.waiting.length - 1],
      ["remove", "✕", "runs_remove", true],
    ];
    for (const [action, mark, label, can] of controls) {
      const one = small(mark, t(label, { name: name(id) }), () => act(action, id));
      one.dataset.key = `${action} ${id}`;
      if (!can) one.disabled = true;
      line.append(one);
    }
  });
  const heading = element("h3", "", t("runs_queue"));
  const notes = failed.map((one) => element("div", "error small", `${name(one.run)}: ${[one.message, one.cure].filter(Boolean).map(plain).join("; ")}`));
  if (queue.note) notes.push(element("div", "error small", queue.note));
  place.replaceChildren(heading, list, ...notes);
  if (focused) {
    const again = [...list.querySelectorAll("button")].find((one) => one.dataset.key === focused);
    (again?.disabled ? again.parentElement.querySelector("button:enabled") : again)?.focus();
  }
}
