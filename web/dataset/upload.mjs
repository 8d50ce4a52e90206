// Files for a data set: what is dropped or chosen becomes a folder of its own, which is chosen at once.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { ask, keep, set, toast, widget } from "../common.js";
import { t } from "../text.js";

const PICTURE = /\.(png|jpe?g|webp|bmp|tiff?|gif|avif)$/i;
const CAPTION = /\.caption$/i;
const TEXT = /\.(txt|md|jsonl?|csv|tsv)$/i; // captions, or what a language model is trained on
const AT_ONCE = 3; // uploads
const SHOWN = 5; // failures by name

// What a folder, or a handful of files, holds: [{file, below}], "below" being the folders above the file, with "/".
export async function dropped({ entries, files }) {
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
  if (!entries.length) return { files: files.map((file) => ({ file, below: [] })), name: "" };
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
export async function take(node, state, { files, name }) {
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

// Files that are chosen in the browser's dialog.
export function pick(node, state) {
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
  return files.then((found) => found.length && take(node, state, { files: found, name: "" })).finally(() => input.remove());
}
