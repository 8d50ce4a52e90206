// The tab Runs: the queue, and all runs, the newest first. What is asked of hundreds of runs is asked when they are seen.
import { api } from "../../../scripts/api.js";
import { ask, button, dress, element } from "../common.js";
import { t } from "../text.js";
import { compare } from "./compare.mjs";
import { showQueue } from "./queue.mjs";
import { row } from "./row.mjs";
import { STYLE } from "./style.mjs";

const AT_ONCE = 40; // rows that are added at a time, as one scrolls
const SOON = 400; // ms in which several reasons to look again become one
const MOST_COMPARED = 6;
const CHANGES = /^Run(Started|Finished|Stopped|Failed)$|^Checkpoint$|^Idle$/; // what the list tells of a run

// Fills ComfyUI's container; returns what ends it.
export function open(container) {
  dress("darkroom-tab-style", STYLE);
  const tab = element("div", "darkroom-tab");
  const title = element("h2", "", t("runs_title")), count = element("span", "dim small");
  const top = element("div", "row apart"), bar = element("div", "row");
  top.append(title, count);
  const queuePlace = element("section", "card"), said = element("div", "small");
  queuePlace.hidden = true;
  queuePlace.setAttribute("aria-label", t("runs_queue"));
  said.setAttribute("role", "status");
  said.hidden = true;
  const filter = document.createElement("input");
  filter.type = "search";
  filter.className = "filter";
  filter.placeholder = t("runs_filter");
  filter.setAttribute("aria-label", t("runs_filter"));
  const together = button(t("runs_compare"), beginComparing);
  bar.append(filter, together);
  const body = element("div", "body"), list = element("ul", "runs"), more = element("button", "", t("runs_more"));
  list.setAttribute("aria-label", t("runs_title"));
  more.type = "button";
  more.hidden = true;
  more.addEventListener("click", () => addRows());
  body.append(list, more);
  tab.append(top, queuePlace, bar, said, body);
  container.style.height = "100%"; // else the whole tab scrolls, with what stands above the list
  container.append(tab);

  let runs = [], shown = [], queue = { running: null, waiting: [] }, alive = true, timer = 0, comparison = null;
  let looks = 0, taken = 0; // how often was asked, and the newest answer's number
  const rows = new Map(), chosen = new Set(), known = new Set(); // known: ids of runs that were heard of
  const watching = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      if (target === more) addRows();
      else rows.get(target.dataset.run)?.see();
    }
  }, { root: body, rootMargin: "200px" });
  watching.observe(more);

  let away = false; // whether the list could not be had
  const actions = {
    // What was done, for eyes and for a screen reader; perhaps with a link.
    say(text, link = null, wrong = false) {
      away = false;
      said.className = wrong ? "small error" : "small";
      said.hidden = !text;
      said.replaceChildren(text, ...(link ? [" ", link] : []));
    },
    compare(run, on) {
      if (on) chosen.add(run.id);
      else chosen.delete(run.id);
      offer();
    },
    queued: (id) => queue.running === id || queue.waiting.includes(id),
    gone(run) {
      const after = shown[shown.findIndex((one) => one.id === run.id) + 1];
      (rows.get(after?.id)?.summary ?? filter).focus();
      runs = runs.filter((one) => one.id !== run.id);
      chosen.delete(run.id);
      arrange();
    },
  };

  function offer() {
    together.disabled = chosen.size < 2 || chosen.size > MOST_COMPARED;
    together.textContent = chosen.size ? `${t("runs_compare")} (${chosen.size})` : t("runs_compare");
    together.title = t("runs_compare_hint", { most: MOST_COMPARED });
  }

  // The rows in their order: those that are there stay, with what is open in them.
  function arrange() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = runs.filter((run) => {
      const text = `${run.label} ${run.family} ${run.state} ${t(run.state)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const here = new Set(shown.map((run) => run.id));
    for (const [id, one] of rows) {
      if (here.has(id)) continue;
      watching.unobserve(one.element);
      one.destroy();
      rows.delete(id);
    }
    const wanted = Math.max(AT_ONCE, rows.size);
    shown.slice(0, wanted).forEach((run, index) => {
      const there = rows.get(run.id);
      if (there) there.update(run);
      const element = there?.element ?? added(run);
      if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
    });
    count.textContent = words.length ? t("runs_some_of", { some: shown.length, all: runs.length }) : t("runs_number", { number: runs.length });
    more.hidden = rows.size >= shown.length;
    list.querySelector(".none")?.remove();
    if (!shown.length) list.append(element("li", "dim none", t(runs.length ? "runs_no_match" : "no_run")));
    offer();
  }

  function added(run) {
    const one = row(run, actions);
    rows.set(run.id, one);
    one.check(chosen.has(run.id));
    watching.observe(one.element);
    return one.element;
  }

  function addRows() {
    for (const run of shown.filter((one) => !rows.has(one.id)).slice(0, AT_ONCE)) list.append(added(run));
    more.hidden = rows.size >= shown.length;
    if (more.hidden) return;
    watching.unobserve(more); // it may still be in sight, which is told only when it is watched anew
    watching.observe(more);
  }

  function beginComparing() {
    actions.say("");
    const these = runs.filter((run) => chosen.has(run.id)); // the newest first
    comparison = compare(these, endComparing);
    body.hidden = bar.hidden = true;
    tab.append(comparison.element);
    comparison.begin();
  }

  function endComparing() {
    comparison.destroy();
    comparison = null;
    body.hidden = bar.hidden = false;
    offer();
    together.focus();
  }

  async function look() {
    const mine = (looks += 1);
    try {
      const told = await ask("/runs");
      if (!alive || mine < taken) return; // a later answer came first
      taken = mine;
      ({ runs } = told);
      if (away) actions.say("");
      arrange();
    } catch (error) {
      if (!alive) return;
      actions.say(error.message, null, true);
      away = true;
    }
    lookAtQueue(await ask("/queue").catch(() => queue));
  }

  function lookSoon() {
    timer ||= setTimeout(() => {
      timer = 0;
      if (alive) look();
    }, SOON);
  }

  function lookAtQueue(next) {
    if (!alive || !next) return;
    const id = (one) => (typeof one === "string" ? one : one?.id ?? null);
    queue = { ...next, running: id(next.running), waiting: next.waiting.map(id) };
    drawQueue();
    rows.forEach((one) => one.redraw());
  }

  function drawQueue() {
    showQueue(queuePlace, queue, (id) => runs.find((run) => run.id === id), lookAtQueue);
  }

  const onRun = ({ detail: { run: id, events } }) => {
    rows.get(id)?.hear(events);
    const fresh = id && !known.has(id); // once: one that another profile trains will not be in the list
    known.add(id);
    if (fresh || events.some(({ type }) => CHANGES.test(type))) lookSoon();
    if (queue.running === id) drawQueue();
  };
  api.addEventListener("darkroom.run", onRun);
  api.addEventListener("darkroom.queue", lookSoon);
  api.addEventListener("reconnected", lookSoon);
  filter.addEventListener("input", arrange);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.classList.contains("summary")) return;
    const all = [...list.querySelectorAll(".summary")];
    event.preventDefault();
    event.stopPropagation(); // the page moves nodes with the arrow keys
    all[all.indexOf(event.target) + step]?.focus();
  });
  offer();
  look();

  return () => {
    alive = false;
    clearTimeout(timer);
    watching.disconnect();
    api.removeEventListener("darkroom.run", onRun);
    api.removeEventListener("darkroom.queue", lookSoon);
    api.removeEventListener("reconnected", lookSoon);
    comparison?.destroy();
    rows.forEach((one) => one.destroy());
    rows.clear();
    tab.remove();
  };
}
