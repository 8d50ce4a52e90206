// Load Trained LoRA and Strength Sweep: the runs of this ComfyUI to choose from; the choice fills the node's texts.
import { app } from "../../scripts/app.js";
import { ask, button, element, keep, panel, set, widget } from "./common.js";
import { duration, t } from "./text.js";

const NODES = { Darkroom_LoadTrainedLoRA: "checkpoint", Darkroom_StrengthSweep: "checkpoints" };
function fill(node, name, value) {
  set(node, name, value);
  keep();
}

// What a person needs in order to tell runs apart.
function facts(run) {
  const parts = [run.id];
  if (run.started) parts.push(new Date(run.started * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
  parts.push(t("step_of", { step: String(run.step), total: String(run.total) }));
  if (run.loss !== null) parts.push(t("loss", { loss: run.loss.toFixed(4) }));
  if (run.state === "running" && run.seconds_left) parts.push(t("left", { time: duration(run.seconds_left) }));
  return parts.join(" · ");
}

function row(title, note, more, chosen) {
  const one = element("button", "darkroom-run");
  one.type = "button";
  one.style.cssText = "display: block; width: 100%; text-align: left; padding: 5px 8px; white-space: normal;";
  if (chosen) one.style.borderColor = "var(--p-primary-color, #4a90e2)";
  const head = element("div", "row");
  head.style.justifyContent = "space-between";
  const name = element("span", "", title);
  name.style.fontWeight = "600";
  head.append(name, element("span", note === t("failed") ? "error" : "dim", note));
  one.append(head, element("div", "dim", more));
  return one;
}

function picker(node, steps) {
  const inner = panel(node);
  const list = element("div", "darkroom-runs");
  list.style.cssText = "display: flex; flex-direction: column; gap: 4px; max-height: 260px; overflow-y: auto;";
  // The wheel scrolls the list, not the canvas.
  list.addEventListener("wheel", (event) => event.stopPropagation(), { passive: true });
  const several = steps === "checkpoints";
  const opener = button(t("choose_run"), async () => {
    if (list.isConnected) return close();
    await open();
  });

  function close() {
    list.remove();
    opener.textContent = t("choose_run");
  }

  async function open() {
    const { runs } = await ask("/runs");
    list.replaceChildren();
    if (!runs.length) list.append(element("div", "dim", t("no_run")));
    const now = String(widget(node, "run").value ?? "").trim();
    if (runs.length) {
      const newest = row(t("latest"), "", t("newest"), now === "latest" || !now);
      newest.addEventListener("click", () => choose("latest", runs.find((run) => run.steps.length)));
      list.append(newest);
    }
    for (const run of runs) {
      const some = run.steps.length > 0;
      const one = row(run.name, t(run.state), some ? facts(run) : `${facts(run)} · ${t("nothing_saved")}`, now === run.label);
      one.title = run.id;
      one.disabled = !some;
      one.addEventListener("click", () => choose(run.label, run));
      list.append(one);
    }
    inner.append(list);
    opener.textContent = t("close");
  }

  function choose(label, run) {
    fill(node, "run", label);
    if (!several) fill(node, steps, "last");
    if (run) offer(run);
    else close();
  }

  // Steps as small buttons: one for Load Trained LoRA, several for a sweep.
  function offer(run) {
    list.replaceChildren(element("div", "", `${run.name} ${run.id}`), element("div", "dim", t(several ? "which_steps" : "which_step")));
    const chips = element("div", "row");
    const named = () => String(widget(node, steps).value ?? "").split(/[,;\n]/).map((one) => one.trim()).filter(Boolean);
    const draw = () => {
      const chosen = named();
      for (const chip of chips.children) {
        const on = chosen.includes(chip.dataset.step);
        chip.style.borderColor = on ? "var(--p-primary-color, #4a90e2)" : "";
        chip.setAttribute("aria-pressed", String(on));
      }
    };
    const texts = [...(several ? ["all"] : []), "best", "last", ...[...run.steps].reverse().map(String)];
    for (const text of texts) {
      const chip = element("button", "darkroom-step", /\d/.test(text) ? text : t(text));
      chip.type = "button";
      chip.dataset.step = text;
      if (text === "best" && run.best) {
        import("./messages/plain.mjs").then(({ plain }) => { chip.title = `${run.best.step}: ${plain(run.best.reason)}`; });
      }
      chip.addEventListener("click", () => {
        if (!several) {
          fill(node, steps, Number(text) ? `step ${text}` : text);
          return close();
        }
        const others = named().filter((one) => one !== text && (text === "all") === (one === "all"));
        fill(node, steps, (named().includes(text) ? others : [...others, text]).join(", "));
        draw();
      });
      chips.append(chip);
    }
    list.append(chips);
    draw();
  }

  inner.append(opener);
}

app.registerExtension({
  name: "LoRADarkroom.Runs",
  nodeCreated(node) {
    const steps = NODES[node.comfyClass];
    if (steps) picker(node, steps);
  },
});
