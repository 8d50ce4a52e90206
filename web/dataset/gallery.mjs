// The pictures of a data set, one by one: captions edited in their files, pictures left out, findings, buckets and crops.
import { api } from "../../../scripts/api.js";
import { ask, element, keep, set, toast, widget } from "../common.js";
import { search, upstream, wired } from "../graph.js";
import { count, t } from "../text.js";
import { Album, fold } from "./album.mjs";
import { aside } from "./aside.mjs";
import { captions } from "./captions.mjs";
import { dialog, press } from "./dialog.mjs";
import { grid } from "./grid.mjs";
import { larger } from "./picture.mjs";
import { replacer } from "./replace.mjs";
import { tiles } from "./tile.mjs";

const RELOAD_AFTER = 1500; // ms without a change, until what is said of the pictures is asked for again
const TYPED = 180; // ms without a key, until the filter counts

const lines = (text) => String(text ?? "").split(/\r?\n/).map((one) => one.trim()).filter(Boolean);

// The resolution of the training that the node leads to; 512 where that is not known.
function resolution(node) {
  for (const one of node.graph?.nodes ?? []) {
    if (one.type !== "Darkroom_TrainLoRA") continue;
    const data = search(one, { name: "dataset" }, "DARKROOM_DATASET", (at) => (at === node ? at : null));
    const config = data && upstream(one, { name: "config" });
    const chosen = widget(config ?? {}, "resolution")?.value;
    if (chosen && !wired(config).includes("resolution") && !widget(config, "auto")?.value) return Number(chosen);
  }
  return 512;
}

function check(text, changed, on = false) {
  const label = element("label", ""), box = document.createElement("input");
  box.type = "checkbox";
  box.checked = on;
  box.addEventListener("change", () => changed(box.checked));
  label.append(box, element("span", "", text));
  return { label, box };
}

// Shows the dialog. `values`: the node's, as the routes take them. `changed`: called when the folder or the node did.
export async function show(node, values, changed) {
  const album = new Album(), fetched = new Set(); // addresses of thumbnails
  const outer = dialog(t("data_pictures"), () => end());
  let gone = false, typed = 0, reloading = 0;
  let looks = 0; // an answer is of what was there when it was asked for: what changed since, or is asked since, outdates it

  const status = element("span", "status");
  status.setAttribute("role", "status");
  const say = (text, bad = false) => {
    status.textContent = text;
    status.className = bad ? "status error" : "status";
  };
  const failed = (error) => (gone ? toast("error", t("data_pictures"), error.message) : say(error.message, true));
  const request = (more) => ({ dataset: values(), ...more });
  const edited = () => {
    changed();
    looks += 1;
    clearTimeout(reloading);
    if (!gone) reloading = setTimeout(() => load().catch(failed), RELOAD_AFTER);
  };

  // What can be done, above the pictures

  const tell = element("span", "dim"), note = element("div", "note");
  outer.head.insertBefore(tell, outer.head.children[1]);
  const find = document.createElement("input");
  find.type = "search";
  find.placeholder = t("data_find");
  find.setAttribute("aria-label", t("data_find"));
  find.style.width = "16em";
  find.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => { album.text = find.value.trim(); filter(); }, TYPED);
  });
  const all = press(t("data_all"), "", () => {
    album.kind = album.word = album.text = find.value = "";
    side.draw();
    filter();
  });
  const size = document.createElement("input");
  Object.assign(size, { type: "number", min: 64, max: 4096, step: 64, value: resolution(node) });
  size.addEventListener("change", () => load().catch(failed));
  const sized = element("label", "");
  sized.append(element("span", "", t("data_resolution")), size);
  const crops = check(t("data_crops"), (on) => pictures.element.classList.toggle("crops", on));
  const swap = press(t("data_replace"), "", () => replacing.toggle());
  const editing = captions({
    album, request, say, failed, load, saved: edited, undone: changed, shown: (item) => pictures.changed(item),
  });
  const replacing = replacer({
    request, say, failed,
    images: () => (album.shown.length === album.items.length ? null : album.shown.map((item) => item.name)),
    done: () => load(),
  });
  const tools = element("div", "tools");
  tools.append(find, all, swap, editing.undo, editing.redo, element("span", "spring"), crops.label, sized);

  // The pictures

  const side = aside(album, filter);
  const pictures = grid({
    label: t("data_pictures"), none: t("data_none"), ...tiles({ album, save: editing.save, include, enlarge }), pressed,
    load(tile, item, now) {
      const address = (item.address ??= thumbnail(item));
      if (tile.image.getAttribute("src") === address) return;
      if (now || fetched.has(address)) {
        tile.image.src = address;
        fetched.add(address);
      } else tile.image.removeAttribute("src");
    },
  });
  const main = element("div", "main"), foot = element("div", "foot");
  main.append(side.element, pictures.element);
  foot.append(status, element("span", "spring"), element("span", "keys", t("data_keys")));
  outer.body.append(tools, replacing.element, note, main, foot);

  function thumbnail(item, large) {
    const asked = { album: album.id, image: item.name, of: item.content, ...(large ? { large: "yes" } : {}) };
    return api.apiURL(`/darkroom/dataset/thumbnail?${new URLSearchParams(asked)}`);
  }

  function pressed(event, item, tile) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") tile.caption.focus();
    else if (event.key === " " && !album.fixed) include(item, item.out);
    else if (event.key.toLowerCase() === "l") enlarge(item);
    else return;
    event.preventDefault();
  }

  function enlarge(item) {
    larger({
      item, address: (one) => thumbnail(one, true), crops: crops.box.checked,
      next: (one, by) => pictures.item(pictures.place(one) + by),
      ended: (one) => pictures.focus(pictures.place(one)),
    });
  }

  function include(item, on) {
    if (album.fixed) return;
    item.out = !on;
    const names = new Set(album.items.map((one) => fold(one.name)));
    const strange = lines(widget(node, "excluded")?.value).filter((name) => !names.has(fold(name)));
    set(node, "excluded", [...album.items.filter((one) => one.out).map((one) => one.name), ...strange].join("\n"));
    keep();
    pictures.changed(item);
    counted();
    say(t(on ? "data_is_in" : "data_is_out", { name: item.name }));
    edited();
  }

  function counted() {
    const parts = [count("picture", album.items.length)];
    if (album.out) parts.push(t("data_left_out", { number: album.out }));
    if (album.shown.length < album.items.length) parts.push(t("data_shown", { number: album.shown.length }));
    tell.textContent = parts.join(" · ");
    side.counted();
  }

  function filter() {
    album.filter();
    all.disabled = !album.filtered;
    pictures.top();
    pictures.show(album.shown);
    replacing.look();
    counted();
  }

  async function load() {
    clearTimeout(reloading);
    const look = (looks += 1), asked = request({ resolution: Number(size.value) || 512 });
    const [found, words] = await Promise.all([
      ask("/dataset/pictures", asked), ask("/dataset/words", asked).catch(() => null),
    ]);
    if (gone || look !== looks) return;
    const others = album.take(found, words);
    album.fixed = wired(node).includes("excluded");
    outer.name.textContent = found.root;
    outer.name.title = found.root;
    const why = found.locked ? `${t("data_locked")} ${found.locked.why}. ${found.locked.cure}.` : "";
    note.textContent = [why, found.fault].filter(Boolean).join("\n");
    note.hidden = !note.textContent;
    swap.hidden = editing.undo.hidden = editing.redo.hidden = Boolean(found.locked);
    editing.steps(found);
    side.draw();
    if (others) filter();
    else {
      pictures.redraw();
      counted();
    }
  }

  outer.element.addEventListener("keydown", editing.key);
  outer.element.addEventListener("cancel", (event) => {
    if (document.activeElement?.tagName === "TEXTAREA") event.preventDefault(); // Escape reverts a caption
  });

  function end() {
    const caption = pictures.element.querySelector("textarea:focus");
    if (caption) editing.save(caption.closest(".darkroom-tile").item, caption);
    gone = true;
    clearTimeout(typed);
    clearTimeout(reloading);
    pictures.destroy();
    replacing.destroy();
  }

  await load();
  outer.open();
  pictures.show(album.shown);
  pictures.focus(0);
}
