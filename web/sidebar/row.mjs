// One run in the list: a few words, its course and a picture; and when it is opened, all that is known of it and done to it.
import { ask, button, element } from "../common.js";
import { curve } from "../charts/curve.mjs";
import { plain } from "../messages/plain.mjs";
import { duration, t } from "../text.js";
import { addToGraph } from "./graph.mjs";
import {
  bestSample, bytes, called, curves, inTurn, one as path, picture, settings, size, spark, stated, story, when,
} from "./facts.mjs";

const AGAIN = 1000; // ms between two looks at the story of a run that is being trained

// {element, run, update(run), hear(events), see(), destroy()}. `tab` is {say(text), compare(run, on), queued(id), gone(run)}.
export function row(run, tab) {
  const item = element("li", "card run"), head = element("div", "head");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => tab.compare(run, box.checked));
  const summary = element("button", "summary");
  summary.type = "button";
  summary.setAttribute("aria-expanded", "false");
  const words = element("span", "words"), thumb = element("span", "thumb");
  const title = element("b", ""), state = element("span", "state"), now = element("span", "small");
  const course = element("span", "course"), figures = element("span", "dim small"), more = element("span", "dim small");
  const step = element("span", "dim");
  now.append(state, step);
  words.append(title, now, course, figures, more);
  summary.append(words, thumb);
  head.append(box, summary);
  const details = element("div", "details");
  details.id = `darkroom-run-${run.id}`;
  summary.setAttribute("aria-controls", details.id);
  item.append(head, details);
  item.dataset.run = run.id;

  let told = null, takes = null, asked = false, alive = true, chart = null, timer = 0;
  let parts = null; // of the details, while they are open

  function draw() {
    const waits = run.state !== "running" && tab.queued(run.id);
    const { mark, word } = waits ? { mark: "…", word: t("runs_waits") } : stated(run.state);
    title.replaceChildren(run.name, element("span", "dim id", run.id.slice(0, 4)));
    box.setAttribute("aria-label", t("runs_compare_it", { name: called(run) }));
    state.className = `state ${run.state}`;
    const sign = element("span", "", `${mark} `);
    sign.setAttribute("aria-hidden", "true");
    state.replaceChildren(sign, word);
    step.textContent = run.total ? ` · ${t("step_of", { step: String(run.step), total: String(run.total) })}` : "";
    figures.textContent = [
      run.loss !== null && t("loss", { loss: run.loss.toFixed(4) }),
      run.best && t("runs_best_at", { step: String(run.best.step) }),
    ].filter(Boolean).join(" · ");
    more.textContent = [
      run.state === "running" && run.seconds_left > 0 && t("left", { time: duration(run.seconds_left) }),
      run.started > 0 && when(run.started),
      takes !== null && bytes(takes),
    ].filter(Boolean).join(" · ");
    if (parts) act();
  }

  function show() {
    const line = spark(told), sample = bestSample(told);
    course.replaceChildren(...(line ? [line] : []));
    if (sample?.picture) {
      const source = picture(run.id, sample.picture);
      if (thumb.firstChild?.src !== new URL(source, location.href).href) {
        const image = element("img", "");
        image.loading = "lazy";
        image.alt = t("runs_sample", { step: sample.step, prompt: sample.prompt });
        image.src = source;
        thumb.replaceChildren(image);
      }
    } else {
      thumb.replaceChildren(...(sample ? [element("span", "", sample.answer.slice(0, 90))] : []));
    }
    if (parts) detail();
  }

  // When it is first seen, what is drawn of it is asked for.
  async function see() {
    if (asked) return;
    asked = true;
    try {
      await inTurn(load, () => alive);
    } catch {
      asked = false; // of a run that is being deleted, or while the server is away: when it is seen next
    }
  }

  async function load() {
    const [found, room] = await Promise.all([story(run.id), size(run.id)]);
    if (!alive) return;
    told = found;
    takes = room;
    draw();
    show();
  }

  function again() {
    if (timer || !asked) return;
    timer = setTimeout(() => {
      timer = 0;
      if (alive) inTurn(load, () => alive).catch(() => {});
    }, AGAIN);
  }

  function hear(events) {
    for (const event of events) {
      if (event.type === "Step") {
        run.state = "running";
        Object.assign(run, { step: event.step, total: event.total, loss: event.loss ?? run.loss, seconds_left: event.eta ?? 0 });
        told?.losses.push([event.step, event.loss, event.lr, event.seconds, event.memory]);
      } else if (["Sample", "Validation", "Checkpoint", "RunStarted"].includes(event.type)) {
        again();
      }
    }
    draw();
    if (chart && told) chart.update({ series: curves(told), marks: marks() });
  }

  const marks = () => (run.best ? [{ step: run.best.step, name: t("best") }] : []);

  summary.addEventListener("click", () => (parts ? shut() : open()));

  function open() {
    item.classList.add("open");
    summary.setAttribute("aria-expanded", "true");
    chart = curve({ height: 150, label: t("runs_curve", { name: called(run) }) });
    parts = {
      notes: element("div", ""), sample: element("figure", ""), settings: element("details", ""), acts: element("div", "details"),
    };
    parts.settings.append(element("summary", "", t("runs_settings")));
    parts.settings.addEventListener("toggle", tellSettings);
    details.replaceChildren(parts.notes, chart.element, parts.sample, parts.settings, parts.acts);
    act();
    if (told) detail();
    see();
  }

  function shut() {
    item.classList.remove("open");
    summary.setAttribute("aria-expanded", "false");
    chart.destroy();
    chart = parts = null;
    details.replaceChildren();
  }

  function detail() {
    chart.update({ series: curves(told), marks: marks() });
    const sample = bestSample(told), notes = [];
    if (run.best?.reason) notes.push(element("div", "small", `${t("runs_best_at", { step: String(run.best.step) })} (${plain(run.best.reason)})`));
    if (told.end?.type === "RunFailed") notes.push(element("div", "error", [told.end.message, told.end.cure].filter(Boolean).map(plain).join("\n")));
    for (const one of told.advice.filter((said) => said.kind === "diagnosis")) {
      notes.push(element("div", "small", [one.message, one.cure].filter(Boolean).map(plain).join(": ")));
    }
    parts.notes.replaceChildren(...notes);
    if (!sample) return parts.sample.replaceChildren();
    const caption = element("figcaption", "dim small", t("runs_sample", { step: sample.step, prompt: sample.prompt }));
    const shown = sample.picture ? element("img", "") : element("blockquote", "", sample.answer);
    if (sample.picture) Object.assign(shown, { src: picture(run.id, sample.picture), alt: sample.prompt });
    parts.sample.replaceChildren(shown, caption);
  }

  async function tellSettings() {
    if (!parts?.settings.open || parts.settings.children.length > 1) return;
    const into = parts.settings, pairs = element("dl", "pairs");
    into.append(pairs);
    try {
      for (const [field, value] of Object.entries(await settings(run.id))) {
        if (value === null || value === "" || value?.length === 0) continue;
        pairs.append(element("dt", "", field), element("dd", "", written(value)));
      }
    } catch (error) {
      pairs.replaceWith(element("div", "error", error.message));
    }
  }

  // The buttons, for what the run is now; drawn anew only when that is something else. The form stays: someone may be
  // typing.
  function act() {
    const running = run.state === "running", queued = tab.queued(run.id), some = run.steps.length > 0;
    if (some && !parts.form) parts.acts.append((parts.form = keeping()).element);
    parts.form?.offer();
    const now = JSON.stringify([run.state, queued, some]);
    if (parts.now === now) return;
    parts.now = now;
    const acts = element("div", "row");
    const over = run.state === "finished" || running;
    if (!over) {
      const go = button(t(queued ? "runs_waits" : "runs_continue"), async () => {
        await ask("/queue", { action: "add", run: run.id });
        tab.say(t("runs_added", { name: called(run) }));
      });
      go.disabled = queued;
      acts.append(go);
    }
    if (some) {
      acts.append(button(t("runs_load"), () => {
        addToGraph(run);
        tab.say(t("runs_loaded", { name: called(run) }));
      }));
    }
    acts.append(button("TensorBoard", board));
    const remove = element("button", "grave", t("runs_delete"));
    remove.type = "button";
    remove.disabled = running || queued;
    if (remove.disabled) remove.title = t("runs_busy");
    remove.addEventListener("click", () => sure(acts, remove));
    acts.append(remove);
    parts.acts.querySelector(".sure")?.remove();
    parts.row?.remove();
    parts.row = acts;
    parts.acts.prepend(acts);
  }

  // A tab of the browser opens only while a click is being heard; it is led to its page when that is there.
  async function board() {
    const opened = window.open("", "_blank");
    if (opened) opened.opener = null; // another program's page gets no hold on this one
    tab.say(t("runs_board_starts"));
    try {
      const { url } = await ask("/tensorboard", { run: run.id });
      if (opened) opened.location = url;
      const link = element("a", "", url);
      Object.assign(link, { href: url, target: "_blank", rel: "noreferrer" });
      tab.say(t("runs_board_at"), link);
    } catch (error) {
      opened?.close();
      tab.say("");
      throw error;
    }
  }

  // {element, offer()}: the form, and what brings its checkpoints up to date.
  function keeping() {
    const form = element("form", ""), text = document.createElement("input"), step = document.createElement("select");
    text.value = run.name.replace(/[^\p{L}\p{N}_-]+/gu, "_");
    text.required = true;
    text.maxLength = 200;
    text.spellcheck = false;
    let offered = "";
    const offer = () => {
      const now = JSON.stringify([run.steps, run.best?.step]), chosen = step.value;
      if (offered === now || !run.steps.length) return;
      offered = now;
      step.replaceChildren(
        new Option(run.best ? t("runs_best_at", { step: String(run.best.step) }) : t("best"), "best"),
        new Option(t("runs_last_at", { step: String(run.steps.at(-1)) }), "last"),
        ...[...run.steps].reverse().map((number) => new Option(t("train_at_step", { step: number }), String(number))),
      );
      if (chosen) step.value = chosen;
      if (!step.value) step.value = "best"; // what was chosen is there no more
    };
    const field = (label, one) => {
      const outer = element("label", "field", label);
      outer.append(one);
      return outer;
    };
    const go = element("button", "main", t("runs_keep"));
    form.append(field(t("runs_file_name"), text), field(t("runs_which"), step), go);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      try {
        const { name: file, step: number } = await ask(path(run.id, "/keep"), { name: text.value, step: step.value });
        tab.say(t("runs_kept", { file, step: String(number) }));
      } catch (error) {
        tab.say(error.message, null, true);
      } finally {
        go.disabled = false;
      }
    });
    return { element: form, offer };
  }

  async function sure(acts, remove) {
    remove.disabled = true;
    takes ??= await size(run.id).catch(() => null);
    if (!acts.isConnected) return;
    const question = element("div", "card sure"), answers = element("div", "row");
    question.setAttribute("role", "group");
    question.append(element("div", "", t("runs_sure", { name: called(run), room: takes === null ? "?" : bytes(takes) })));
    question.append(element("div", "dim small", t("runs_stays")));
    const no = element("button", "", t("runs_no"));
    no.type = "button";
    const back = () => {
      question.remove();
      remove.disabled = false;
      remove.focus();
    };
    no.addEventListener("click", back);
    question.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      back();
    });
    const yes = button(t("runs_yes"), async () => {
      const { bytes: freed } = await ask(path(run.id, "/delete"), {});
      tab.say(t("runs_deleted", { name: called(run), room: bytes(freed) }));
      tab.gone(run);
    });
    yes.className = "grave";
    answers.append(no, yes);
    question.append(answers);
    acts.after(question);
    no.focus();
  }

  function update(next) {
    const another = next.state !== run.state || next.step !== run.step || next.ended !== run.ended;
    run = next;
    draw();
    if (another) again();
  }

  function destroy() {
    alive = false;
    clearTimeout(timer);
    chart?.destroy();
    item.remove();
  }

  draw();
  return {
    element: item, summary, update, hear, see, destroy, redraw: draw,
    check: (on) => { box.checked = on; }, get run() { return run; },
  };
}

export function written(value) {
  return typeof value === "object" ? JSON.stringify(value).replace(/[[\]{}"]/g, "").replace(/,/g, ", ") : String(value);
}
