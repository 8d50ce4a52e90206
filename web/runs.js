// Load Trained LoRA and Strength Sweep: the runs of this ComfyUI to choose from; the choice fills the node's texts.
import { app } from "../../scripts/app.js";
import { ask, button, element, keep, panel, set, widget } from "./common.js";

const NODES = { Darkroom_LoadTrainedLoRA: "checkpoint", Darkroom_StrengthSweep: "checkpoints" };
const WORDS = {
  en: {
    choose: "Choose a run", close: "Close", none: "No run yet: train one with Train LoRA.", latest: "latest",
    which: "Which step?", several: "Which steps? Click several.", all: "all", last: "last", step: "step", loss: "loss",
    left: "left", running: "running", finished: "finished", stopped: "stopped", failed: "failed",
    nothing: "nothing saved yet", newest: "whichever is the newest when it runs",
  },
  zh: {
    choose: "选择训练", close: "关闭", none: "还没有训练：请先用“训练 LoRA”训练一次。", latest: "最近一次",
    which: "哪一步？", several: "哪几步？可以点选多个。", all: "全部", last: "最后", step: "步", loss: "损失",
    left: "剩余", running: "训练中", finished: "已完成", stopped: "已停止", failed: "失败",
    nothing: "还没有保存任何东西", newest: "运行时最新的那一次",
  },
};

function word(name) {
  const language = app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en";
  return (WORDS[language.startsWith("zh") ? "zh" : "en"])[name] ?? name;
}

function clock(seconds) {
  const minutes = Math.max(1, Math.round(seconds / 60));
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function fill(node, name, value) {
  set(node, name, value);
  keep();
}

// What a person needs in order to tell runs apart.
function facts(run) {
  const parts = [run.id];
  if (run.started) parts.push(new Date(run.started * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
  parts.push(`${word("step")} ${run.step} / ${run.total}`);
  if (run.loss !== null) parts.push(`${word("loss")} ${run.loss.toFixed(4)}`);
  if (run.state === "running" && run.seconds_left) parts.push(`${clock(run.seconds_left)} ${word("left")}`);
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
  head.append(name, element("span", note === word("failed") ? "error" : "dim", note));
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
  const opener = button(word("choose"), async () => {
    if (list.isConnected) return close();
    await open();
  });

  function close() {
    list.remove();
    opener.textContent = word("choose");
  }

  async function open() {
    const { runs } = await ask("/runs");
    list.replaceChildren();
    if (!runs.length) list.append(element("div", "dim", word("none")));
    const now = String(widget(node, "run").value ?? "").trim();
    if (runs.length) {
      const newest = row(word("latest"), "", word("newest"), now === "latest" || !now);
      newest.addEventListener("click", () => choose("latest", runs.find((run) => run.steps.length)));
      list.append(newest);
    }
    for (const run of runs) {
      const some = run.steps.length > 0;
      const one = row(run.name, word(run.state), some ? facts(run) : `${facts(run)} · ${word("nothing")}`, now === run.label);
      one.title = run.id;
      one.disabled = !some;
      one.addEventListener("click", () => choose(run.label, run));
      list.append(one);
    }
    inner.append(list);
    opener.textContent = word("close");
  }

  function choose(label, run) {
    fill(node, "run", label);
    if (!several) fill(node, steps, "last");
    if (run) offer(run);
    else close();
  }

  // Steps as small buttons: one for Load Trained LoRA, several for a sweep.
  function offer(run) {
    list.replaceChildren(element("div", "", `${run.name} ${run.id}`), element("div", "dim", word(several ? "several" : "which")));
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
    const texts = [...(several ? ["all"] : []), "last", ...[...run.steps].reverse().map(String)];
    for (const text of texts) {
      const chip = element("button", "darkroom-step", word(text));
      chip.type = "button";
      chip.dataset.step = text;
      chip.addEventListener("click", () => {
        if (!several) {
          fill(node, steps, text === "last" ? text : `step ${text}`);
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
