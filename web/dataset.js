// Load Dataset: files dropped or chosen become a folder, and what is in it is shown before Run.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, button, element, keep, panel, set, toast, widget } from "./common.js";
import { upstream } from "./graph.js";
import { t } from "./text.js";

const PICTURE = /\.(png|jpe?g|webp|bmp|tiff?|gif|avif)$/i;
const CAPTION = /\.caption$/i;
const TEXT = /\.(txt|md|jsonl?|csv|tsv)$/i; // captions, or what a language model is trained on
const AT_ONCE = 3; // uploads
const LOOK_EVERY = 700; // ms; what was the same for two looks is asked for
const SHOWN = 5; // failures by name
const states = new Map(); // node -> {lines, sheet, busy, asked, seen}

// What a folder, or a handful of files, holds: [{file, below}], "below" being the folders above the file, with "/".
async function dropped(items) {
  const found = [];
  const walk = async (entry, below) => {
    if (entry.isFile) {
      found.push({ file: await new Promise((done, fail) => entry.file(done, fail)), below });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader gives a hundred at a time
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return;
      for (const one of some) {
        if (!one.name.startsWith(".")) await walk(one, one.isDirectory ? [...below, one.name] : below);
      }
    }
  };
  // Entries must be taken at once: they are gone when the event is over.
  const given = [...items].filter((item) => item.kind === "file");
  const entries = given.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return { files: given.map((item) => ({ file: item.getAsFile(), below: [] })), name: "" };
  const one = entries.length === 1 && entries[0].isDirectory ? entries[0] : null;
  for (const entry of entries) await walk(entry, entry.isDirectory && !one ? [entry.name] : []);
  return { files: found, name: one?.name ?? "" };
}

async function upload({ file, below }, folder) {
  const most = api.getServerFeature?.("max_upload_size");
  if (most && file.size > most) {
    throw new Error(t("file_too_large", { limit: `${Number((most / 2 ** 20).toPrecision(2))} MB` }));
  }
  const body = new FormData();
  body.append("image", file, file.name);
  body.append("subfolder", [folder, ...below].join("/"));
  body.append("type", "input");
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (answer.status === 413) throw new Error(t("file_refused_as_too_large"));
  if (!answer.ok) throw new Error(t("refused", { reason: `${answer.status} ${answer.statusText}` }));
  const { name } = await answer.json();
  if (name !== file.name) throw new Error(t("renamed", { name }));
}

// Puts files into one new folder below the input, and chooses it. None of them ever comes into a folder that is there.
async function take(node, { files, name }) {
  const state = states.get(node);
  if (state.busy) throw new Error(t("busy"));
  const taken = ({ file }) => [PICTURE, CAPTION, TEXT].some((kind) => kind.test(file.name));
  const wanted = files.filter(taken);
  const left = files.filter((one) => !taken(one)).map(({ file }) => `${file.name}: ${t("neither")}`);
  if (!wanted.some(({ file }) => PICTURE.test(file.name) || TEXT.test(file.name))) throw new Error(t("no_picture"));
  state.busy = true;
  state.status.className = "dim";
  try {
    const { folder } = await ask("/dataset/new", { name: state.name.value.trim() || name });
    const waiting = [...wanted], failed = [];
    let done = 0;
    const work = async () => {
      for (let next; (next = waiting.shift());) {
        try {
          await upload(next, folder);
        } catch (error) {
          failed.push(`${next.file.name}: ${error.message}`);
        }
        done += 1;
        state.status.textContent = t("uploading", { folder, done, total: wanted.length });
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    const all = [...failed, ...left];
    const more = all.length > SHOWN ? [t("and_more", { number: all.length - SHOWN })] : [];
    const said = [t("uploaded", { number: wanted.length - failed.length, folder }), ...all.slice(0, SHOWN), ...more];
    state.status.textContent = said.join("\n");
    if (failed.length < wanted.length) state.name.value = "";
    state.status.className = failed.length ? "warn lines" : "dim lines";
    if (failed.length) toast("warn", node.title, said.join("\n"), 20_000);
    if (failed.length === wanted.length) {
      await ask("/dataset/discard", { folder });
      return;
    }
    await app.refreshComboInNodes();
    choose(node, folder);
  } catch (error) {
    state.status.textContent = "";
    throw error;
  } finally {
    state.busy = false;
  }
}

function choose(node, folder) {
  const combo = widget(node, "folder"), path = widget(node, "path");
  const options = combo.options?.values;
  if (Array.isArray(options) && !options.includes(folder)) options.push(folder);
  set(node, "folder", folder);
  if (path) path.value = ""; // it would win over the folder
  keep();
}

function pick(node) {
  const input = document.createElement("input");
  input.type = "file";
  input.multiple = true;
  input.accept = "image/*,.txt,.md,.caption,.csv,.tsv,.json,.jsonl";
  input.className = "darkroom-files";
  input.style.display = "none";
  const files = new Promise((done) => {
    input.addEventListener("change", () => done([...input.files].map((file) => ({ file, below: [] }))));
    input.addEventListener("cancel", () => done([]));
  });
  document.body.append(input);
  input.click();
  return files.then((found) => found.length && take(node, { files: found, name: "" })).finally(() => input.remove());
}

// The values that the node's picture depends on; null where they are known only when the graph runs.
function question(node) {
  const links = (node.inputs ?? []).filter((one) => one.link != null).map((one) => one.name);
  if (links.some((name) => ["images", "folder", "path", "trigger_word", "captions"].includes(name))) return null;
  const names = ["folder", "path", "trigger_word", "repeats", "captions"];
  return JSON.stringify(Object.fromEntries(names.map((name) => [name, widget(node, name)?.value])));
}

function show(state, { text, sheet }) {
  state.lines.replaceChildren(element("div", "", text[0]));
  state.sheet.hidden = !sheet.length; // text has none
  if (!sheet.length) return;
  const [{ filename, subfolder, type }] = sheet;
  const query = new URLSearchParams({ filename, subfolder, type });
  if (!state.sheet.src.includes(query)) state.sheet.src = api.apiURL(`/view?${query}`);
}

async function look(node, state) {
  const asked = question(node);
  if (asked === state.asked || state.busy) return;
  if (asked !== state.seen) { // a key was pressed a moment ago
    state.seen = asked;
    return;
  }
  state.asked = asked;
  if (asked === null) {
    const kept = sessionStorage.getItem(remembered(node));
    if (kept) show(state, JSON.parse(kept));
    else {
      state.lines.replaceChildren(element("div", "dim", t("shown_after_run")));
      state.sheet.hidden = true;
    }
    return;
  }
  try {
    const found = await ask("/dataset", JSON.parse(asked));
    if (state.asked === asked) show(state, found);
  } catch (error) {
    if (state.asked !== asked) return;
    state.lines.replaceChildren(element("div", "error", error.message));
    state.sheet.hidden = true;
  }
}

// What wired pictures looked like is remembered for the tab: only the run knows it.
function remembered(node) {
  const from = upstream(node, { name: "images" });
  return `darkroom dataset ${node.id} ${from?.id} ${from?.type}`;
}

function build(node) {
  const inside = panel(node);
  const row = element("div", "row");
  const open = () => ask("/dataset/open", { folder: widget(node, "folder").value, path: widget(node, "path").value });
  const name = document.createElement("input");
  name.placeholder = t("folder_name");
  name.title = t("folder_name_hint");
  name.style.width = "11em";
  name.addEventListener("keydown", (event) => event.stopPropagation()); // Delete would delete the node
  row.append(button(t("choose_files"), () => pick(node)), name, button(t("open_folder"), open));
  const lines = element("div", "lines"), sheet = element("img", ""), status = element("div", "dim");
  sheet.hidden = true;
  sheet.alt = t("contact_sheet");
  sheet.title = t("whole_size");
  sheet.style.cursor = "zoom-in";
  sheet.addEventListener("click", () => window.open(sheet.src, "_blank", "noopener"));
  inside.append(row, element("div", "dim", t("or_drop")), status, lines, sheet);
  node.setSize?.([Math.max(node.size[0], 420), node.size[1]]); // wide enough for captions to be read
  states.set(node, { lines, sheet, status, name, busy: false, asked: undefined, seen: undefined });
}

app.registerExtension({
  name: "LoRADarkroom.Dataset",
  setup() {
    setInterval(() => {
      if (document.hidden) return;
      for (const [node, state] of states) if (node.graph) look(node, state);
    }, LOOK_EVERY);
    // After a run the folder may hold other files: asked again, and answered from what is remembered.
    api.addEventListener("execution_success", () => states.forEach((state) => { state.asked = undefined; }));
  },
  beforeRegisterNodeDef(type, definition) {
    if (definition.name !== "Darkroom_LoadDataset") return;
    const { onExecuted, onRemoved, onDragOver, onDragDrop } = type.prototype;
    type.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const state = states.get(this);
      if (!output?.sheet || !state) return;
      show(state, output);
      if (question(this) === null) sessionStorage.setItem(remembered(this), JSON.stringify(output));
    };
    type.prototype.onRemoved = function () {
      states.delete(this);
      onRemoved?.apply(this, arguments);
    };
    type.prototype.onDragOver = function (event) {
      const items = [...(event.dataTransfer?.items ?? [])];
      return items.some((one) => one.kind === "file") || (onDragOver?.apply(this, arguments) ?? false);
    };
    type.prototype.onDragDrop = function (event) {
      if (![...(event.dataTransfer?.items ?? [])].some((one) => one.kind === "file")) {
        return onDragDrop?.apply(this, arguments) ?? false;
      }
      dropped(event.dataTransfer.items)
        .then((found) => take(this, found))
        .catch((error) => toast("error", this.title, error.message));
      return true;
    };
  },
  nodeCreated(node) {
    if (node.comfyClass === "Darkroom_LoadDataset") build(node);
  },
});
