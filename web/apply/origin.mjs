// Which checkpoint a node's LoRA is: of a run that Load Trained LoRA names, where another one can be chosen; or of the
// training upstream.
import { api } from "../../../scripts/api.js";
import { ask, element, keep, set, widget } from "../common.js";
import { search, upstream, wired } from "../graph.js";
import { t } from "../text.js";

const LOADER = "Darkroom_LoadTrainedLoRA", TRAINERS = ["Darkroom_TrainLoRA", "Darkroom_TrainingSweep"];
const NEWS = ["RunStarted", "Checkpoint", "RunFinished", "RunStopped", "RunFailed"];

// {element, look(), destroy()}
export function origin(node) {
  const place = element("div", ""), line = element("div", "dim"), row = element("label", "row", `${t("apply_checkpoint")} `);
  const choice = document.createElement("select");
  choice.style.cssText = "flex: 1; min-width: 0;";
  choice.addEventListener("pointerdown", (event) => event.stopPropagation());
  row.append(choice);
  place.append(row, line);
  let seen = null, run = null, loader = null, alive = true;

  function look() {
    const from = upstream(node, { name: "lora" });
    loader = from && search(node, { name: "lora" }, "LORA_MODEL", (at) => (at.comfyClass === LOADER ? at : null));
    const text = (name) => String(widget(loader, name)?.value ?? "").trim();
    const links = loader ? wired(loader) : [];
    const state = JSON.stringify(loader
      ? [loader.id, text("run") || "latest", text("checkpoint") || "last", links]
      : [from?.comfyClass ?? "", from ? "" : String(widget(node, "lora_name")?.value ?? "")]);
    if (state === seen) return;
    seen = state;
    if (!loader) return plain(from);
    row.hidden = links.includes("run");
    if (row.hidden) line.textContent = t("apply_run_wired");
    else find(text("run") || "latest", state);
  }

  function plain(from) {
    row.hidden = true;
    run = null;
    const file = String(widget(node, "lora_name")?.value ?? "");
    if (TRAINERS.includes(from?.comfyClass)) line.textContent = t("apply_from_training");
    else if (from) line.textContent = t("apply_from", { name: from.title });
    else line.textContent = file.startsWith("(") ? t("apply_none") : t("apply_file", { name: file });
  }

  async function find(name, state) {
    if (/\.safetensors$/i.test(name)) {
      row.hidden = true;
      line.textContent = t("apply_file", { name });
      return;
    }
    try {
      const found = await ask(`/runs/${encodeURIComponent(name)}`);
      if (!alive || seen !== state) return;
      run = found;
      offer();
    } catch (error) {
      if (!alive || seen !== state) return;
      run = null;
      row.hidden = true;
      line.textContent = error.message;
    }
  }

  function offer() {
    const last = run.steps.at(-1), now = String(widget(loader, "checkpoint")?.value || "last").trim().toLowerCase();
    row.hidden = !run.steps.length;
    if (row.hidden) {
      line.textContent = `${run.name} ${run.id.slice(0, 4)}: ${t("nothing_saved")}`;
      return;
    }
    const best = run.best && run.steps.includes(run.best.step) ? run.best.step : last;
    const options = [["best", t("runs_best_at", { step: String(best) })], ["last", t("runs_last_at", { step: String(last) })]];
    for (const step of [...run.steps].reverse()) options.push([`step ${step}`, t("train_at_step", { step })]);
    const chosen = /^\d+$/.test(now) ? `step ${now}` : now;
    if (!options.some(([value]) => value === chosen)) options.push([chosen, chosen]);
    choice.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
    choice.disabled = wired(loader).includes("checkpoint");
    const step = { best, last }[chosen] ?? Number(chosen.replace(/\D+/g, ""));
    line.textContent = [
      `${run.name} ${run.id.slice(0, 4)}`, t("step_of", { step: String(step), total: String(run.total) }),
      run.best && step === run.best.step && t("best"), step === last && t("last"), t(run.state),
    ].filter(Boolean).join(" · ");
  }

  choice.addEventListener("change", () => {
    set(loader, "checkpoint", choice.value);
    keep();
    look();
  });

  // What a run has now is asked for again when something of it was saved; `latest` may be another one then.
  const again = ({ detail: { events } }) => {
    if (loader && events?.some((one) => NEWS.includes(one.type))) seen = null;
  };
  const anew = () => { seen = null; };
  api.addEventListener("darkroom.run", again);
  api.addEventListener("reconnected", anew);

  return {
    element: place,
    look,
    destroy() {
      alive = false;
      api.removeEventListener("darkroom.run", again);
      api.removeEventListener("reconnected", anew);
    },
  };
}
