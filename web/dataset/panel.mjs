// What is on Load Dataset: buttons, what is said of the data set, and its contact sheet; shown before Run.
import { api } from "../../../scripts/api.js";
import { ask, button, element, toast, widget } from "../common.js";
import { upstream } from "../graph.js";
import { plain } from "../messages/plain.mjs";
import { t } from "../text.js";
import { dropped, pick, take } from "./upload.mjs";

const LOOK_EVERY = 700; // ms; what was the same for two looks is asked for
const NAMES = ["folder", "path", "trigger_word", "repeats", "captions", "excluded"];
const states = new Map(); // node -> {lines, sheet, looker, busy, asked, seen}

// The node's values as the routes take them; null where they are known only when the graph runs.
export function values(node) {
  const links = (node.inputs ?? []).filter((one) => one.link != null).map((one) => one.name);
  if (links.some((name) => name === "images" || (NAMES.includes(name) && name !== "repeats"))) return null;
  const names = NAMES.filter((name) => !links.includes(name));
  return Object.fromEntries(names.map((name) => [name, widget(node, name)?.value ?? null]));
}

function show(state, { text, sheet }) {
  state.lines.replaceChildren(element("div", "", plain(text[0])));
  state.sheet.hidden = !sheet.length; // text has none
  state.text = !sheet.length;
  state.looker.textContent = t(sheet.length ? "data_look" : "data_read");
  if (!sheet.length) return;
  const [{ filename, subfolder, type }] = sheet;
  const query = new URLSearchParams({ filename, subfolder, type });
  if (!state.sheet.src.includes(query)) state.sheet.src = api.apiURL(`/view?${query}`);
}

async function look(node, state) {
  const found = values(node), asked = found && JSON.stringify(found);
  if (asked === state.asked || state.busy) return;
  if (asked !== state.seen) { // a key was pressed a moment ago
    state.seen = asked;
    return;
  }
  state.asked = asked;
  state.looker.hidden = asked === null;
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
    const answer = await ask("/dataset", found);
    if (state.asked === asked) show(state, answer);
  } catch (error) {
    if (state.asked !== asked) return;
    state.lines.replaceChildren(element("div", "error", plain(error.message)));
    state.sheet.hidden = true;
  }
}

// What wired pictures looked like is remembered for the tab: only the run knows it.
function remembered(node) {
  const from = upstream(node, { name: "images" });
  return `darkroom dataset ${node.id} ${from?.id} ${from?.type}`;
}

// The whole of it, picture by picture, or sample by sample; what was edited there is asked for again.
async function open(node, state) {
  const { show: dialog } = await import(state.text ? "./texts.mjs" : "./gallery.mjs");
  await dialog(node, () => values(node), () => { state.asked = undefined; });
}

export function build(node, inside) {
  const row = element("div", "row");
  const folder = () => ask("/dataset/open", { folder: widget(node, "folder").value, path: widget(node, "path").value });
  const name = document.createElement("input");
  name.placeholder = t("folder_name");
  name.title = t("folder_name_hint");
  name.style.width = "11em";
  name.addEventListener("keydown", (event) => event.stopPropagation()); // Delete would delete the node
  const lines = element("div", "lines"), sheet = element("img", ""), status = element("div", "dim");
  const state = { lines, sheet, status, name, text: false, busy: false, asked: undefined, seen: undefined };
  state.looker = button(t("data_look"), () => open(node, state));
  row.append(button(t("choose_files"), () => pick(node, state)), name, button(t("open_folder"), folder));
  sheet.hidden = true;
  sheet.alt = t("contact_sheet");
  sheet.title = t("whole_size");
  sheet.style.cursor = "zoom-in";
  sheet.addEventListener("click", () => window.open(sheet.src, "_blank", "noopener"));
  inside.append(row, element("div", "dim", t("or_drop")), status, state.looker, lines, sheet);
  states.set(node, state);
}

export function executed(node, output) {
  const state = states.get(node);
  if (!output?.sheet || !state) return;
  show(state, output);
  if (values(node) === null) sessionStorage.setItem(remembered(node), JSON.stringify(output));
}

export async function drop(node, given) {
  await take(node, states.get(node), await dropped(given)).catch((error) => toast("error", node.title, error.message));
}

export function forget(node) {
  states.delete(node);
}

setInterval(() => {
  if (document.hidden) return;
  for (const [node, state] of states) if (node.graph) look(node, state);
}, LOOK_EVERY);
// After a run the folder may hold other files; and while the server was away nothing was answered. What is known already
// comes from what is remembered.
for (const event of ["execution_success", "reconnected"]) {
  api.addEventListener(event, () => states.forEach((state) => { state.asked = undefined; }));
}
