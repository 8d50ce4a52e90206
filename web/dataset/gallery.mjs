// The pictures of a data set, one by one: captions edited in their files, pictures left out, findings, buckets and crops.
import { api } from "../../../scripts/api.js";
import { ask, element, keep, set, widget } from "../common.js";
import { search, upstream, wired } from "../graph.js";
import { count, t } from "../text.js";
import { dialog } from "./dialog.mjs";
import { grid } from "./grid.mjs";
import { KINDS } from "./kinds.mjs";
import { replacer } from "./replace.mjs";
import { frame, larger, place } from "./picture.mjs";

const RELOAD_AFTER = 1500; // ms without a change, until what is said of the pictures is asked for again
const TYPED = 180; // ms without a key, until the filter counts
const WORDS = 200; // tags that are listed
const OUT = "(out)"; // a filter beside the kinds of findings

const fold = (name) => name.normalize("NFC").toLowerCase().replaceAll("\\", "/").replace(/^\.\//, "").trim();
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

// What stands between commas, as the server counts it.
const tags = (caption) => caption.split(/[,，、]/).map((one) => one.trim().replace(/\s+/g, " ").toLowerCase());
function has(caption, word, kind) {
  if (kind === "tags") return tags(caption).includes(word);
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`(?<![\\p{L}\\p{N}_])${escaped}(?![\\p{L}\\p{N}_])`, "iu").test(caption)
    || (/[\u3041-\u9fff]/.test(word) && caption.toLowerCase().includes(word));
}

function press(text, title, action) {
  const one = element("button", "", text);
  one.type = "button";
  if (title) one.title = title;
  one.addEventListener("click", action);
  return one;
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
  const state = {
    items: [], byName: new Map(), findings: [], sources: [], album: "", locked: null, kind: "", word: "", text: "",
    words: null, shown: [], gone: false, editing: null, told: {},
  };
  const outer = dialog(t("data_pictures"), () => end());
  const status = element("span", "status");
  status.setAttribute("role", "status");
  const say = (text, bad = false) => {
    status.textContent = text;
    status.className = bad ? "status error" : "status";
  };
  const failed = (error) => say(error.message, true);

  const tell = element("span", "dim"), note = element("div", "note");
  outer.head.insertBefore(tell, outer.head.children[1]);
  const undo = press(`↶ ${t("data_undo")}`, "", () => step(false));
  const redo = press(`↷ ${t("data_redo")}`, "", () => step(true));
  const find = document.createElement("input");
  find.type = "search";
  find.placeholder = t("data_find");
  find.setAttribute("aria-label", t("data_find"));
  find.style.width = "16em";
  let typed = 0;
  find.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => { state.text = find.value.trim(); filter(); }, TYPED);
  });
  const all = press(t("data_all"), "", () => {
    state.kind = state.word = state.text = find.value = "";
    aside();
    filter();
  });
  const size = document.createElement("input");
  Object.assign(size, { type: "number", min: 64, max: 4096, step: 64, value: resolution(node) });
  size.addEventListener("change", () => load().catch(failed));
  const sized = element("label", "");
  sized.append(element("span", "", t("data_resolution")), size);
  const crops = check(t("data_crops"), (on) => pictures.element.classList.toggle("crops", on));
  const swap = press(t("data_replace"), "", () => replacing.toggle());
  const tools = element("div", "tools");
  tools.append(find, all, swap, undo, redo, element("span", "spring"), crops.label, sized);
  const side = element("aside", ""), main = element("div", "main"), foot = element("div", "foot");
  side.setAttribute("aria-label", t("data_findings"));
  foot.append(status, element("span", "spring"), element("span", "keys", t("data_keys")));

  const request = (more) => ({ dataset: values(), ...more });
  const replacing = replacer({
    request, say, failed,
    images: () => (state.shown.length === state.items.length ? null : state.shown.map((item) => item.name)),
    done: () => load(),
  });
  const pictures = grid({
    label: t("data_pictures"), none: t("data_none"), make, fill, pressed,
    load(tile, item, now) {
      const address = (item.address ??= thumbnail(item));
      if (tile.image.getAttribute("src") === address) return;
      if (now || state.told[address]) {
        tile.image.src = address;
        state.told[address] = true;
      } else tile.image.removeAttribute("src");
    },
  });
  main.append(side, pictures.element);
  outer.body.append(tools, replacing.element, note, main, foot);

  const thumbnail = (item, large) => api.apiURL(`/darkroom/dataset/thumbnail?${new URLSearchParams({
    album: state.album, image: item.name, of: item.content, ...(large ? { large: "yes" } : {}),
  })}`);

  // Tiles

  function make() {
    const tile = element("div", "darkroom-tile");
    tile.setAttribute("role", "gridcell");
    const view = element("button", "frame");
    view.type = "button";
    view.tabIndex = -1;
    const drawn = frame();
    view.append(drawn.element);
    view.addEventListener("click", () => enlarge(tile.item));
    const top = element("div", "top"), name = element("span", "name"), pixels = element("span", "size");
    const use = document.createElement("input");
    use.type = "checkbox";
    use.tabIndex = -1;
    use.addEventListener("change", () => include(tile.item, use.checked));
    top.append(use, name, pixels);
    const caption = document.createElement("textarea");
    caption.tabIndex = -1;
    caption.addEventListener("focus", () => { state.editing = tile.item; });
    caption.addEventListener("blur", () => {
      state.editing = null;
      save(tile.item, caption);
    });
    caption.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save(tile.item, caption);
      else if (event.key === "Escape") {
        caption.value = tile.item.captions.join("\n");
        caption.classList.remove("unsaved");
        delete tile.item.draft;
        tile.focus();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const badges = element("div", "badges");
    tile.append(view, top, caption, badges);
    return Object.assign(tile, { view, drawn, image: drawn.image, use, nameOf: name, pixels, caption, badges });
  }

  function fill(tile, item) {
    const [width, height, ...bucket] = item.shape;
    place(tile.drawn, item.shape, 218, 196);
    tile.classList.toggle("out", item.out);
    tile.nameOf.textContent = item.name;
    tile.nameOf.title = item.name;
    tile.pixels.textContent = `${width}×${height}`;
    tile.use.checked = !item.out;
    tile.use.disabled = state.fixed;
    tile.use.setAttribute("aria-label", t("data_train_on", { name: item.name }));
    tile.use.title = t(state.fixed ? "data_excluded_wired" : "data_include");
    tile.view.setAttribute("aria-label", t("data_larger", { name: item.name }));
    if (document.activeElement !== tile.caption) {
      tile.caption.value = item.draft ?? item.captions.join("\n");
      tile.caption.classList.toggle("unsaved", item.draft !== undefined);
    }
    tile.caption.readOnly = Boolean(state.locked);
    tile.caption.placeholder = t("data_no_caption_yet");
    tile.caption.setAttribute("aria-label", t("data_caption_of", { name: item.name }));
    tile.caption.title = item.source ? t("data_from", { file: item.source }) : "";
    const said = item.findings.map((number) => state.findings[number]);
    tile.badges.replaceChildren(...(item.out ? [badge("–", t("data_out"), "", "")] : []), ...said.map((one) => {
      const [sign, word] = KINDS[one.kind] ?? ["!", ""];
      return badge(sign, word ? t(word) : one.kind, one.each[item.name] ?? one.message, tone(sign));
    }));
    tile.setAttribute("aria-label", [
      item.name, t("data_trained_at", { size: `${width}×${height}`, bucket: `${bucket[0]}×${bucket[1]}` }),
      item.out ? t("data_out") : "", item.captions.join("; "),
      ...said.map((one) => (KINDS[one.kind] ? t(KINDS[one.kind][1]) : one.kind)),
    ].filter(Boolean).join(". "));
  }

  const tone = (sign) => ({ "!": "mind", "✕": "stop" }[sign] ?? "");

  function badge(sign, word, title, kind) {
    const one = element("span", `badge ${kind}`), mark = element("span", "sign", sign);
    mark.setAttribute("aria-hidden", "true");
    one.append(mark, element("span", "", word));
    one.title = title;
    return one;
  }

  function pressed(event, item, tile) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") tile.caption.focus();
    else if (event.key === " " && !state.fixed) include(item, item.out);
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

  // Captions

  let saving = Promise.resolve(), reloading = 0;
  const later = () => {
    clearTimeout(reloading);
    reloading = setTimeout(() => load().catch(failed), RELOAD_AFTER);
  };

  function save(item, caption) {
    const several = item.captions.length > 1, text = caption.value;
    const after = (several ? text.split("\n") : [text]).map((one) => one.replace(/\s+/g, " ").trim()).filter(Boolean);
    if (state.locked || after.join("\n") === item.captions.join("\n")) {
      delete item.draft;
      return saving;
    }
    item.draft = text;
    saving = saving.then(async () => {
      if (state.gone) return;
      try {
        const found = await ask("/dataset/caption", request({ image: item.name, before: item.captions, after }));
        item.captions = found.captions;
        item.source = found.source;
        if (item.draft === text) delete item.draft;
        steps(found);
        say(t("data_saved", { file: found.files.join(", ") || found.source }));
        changed();
        later();
      } catch (error) {
        failed(error);
        await load().catch(failed);
        failed(error);
      }
      if (!state.gone) pictures.changed(item);
    });
    return saving;
  }

  function steps({ undo: done, redo: undone }) {
    undo.disabled = !done.length;
    redo.disabled = !undone.length;
    undo.title = done.length ? t("data_undo_of", { what: done[0] }) : "";
    redo.title = undone.length ? t("data_redo_of", { what: undone[0] }) : "";
  }

  async function step(again) {
    try {
      await saving;
      const found = await ask("/dataset/undo", request({ redo: again }));
      for (const item of state.items) delete item.draft;
      await load();
      say(t(again ? "data_redone" : "data_undone", { what: found.title }));
      changed();
    } catch (error) {
      failed(error);
    }
  }

  // Pictures that are left out

  function include(item, on) {
    if (state.fixed) return;
    item.out = !on;
    const names = new Set(state.items.map((one) => fold(one.name)));
    const strange = lines(widget(node, "excluded")?.value).filter((name) => !names.has(fold(name)));
    set(node, "excluded", [...state.items.filter((one) => one.out).map((one) => one.name), ...strange].join("\n"));
    keep();
    pictures.changed(item);
    counted();
    say(t(on ? "data_is_in" : "data_is_out", { name: item.name }));
    changed();
    later();
  }

  function counted() {
    const out = state.items.filter((item) => item.out).length;
    const parts = [count("picture", state.items.length)];
    if (out) parts.push(t("data_left_out", { number: out }));
    if (state.shown.length < state.items.length) parts.push(t("data_shown", { number: state.shown.length }));
    tell.textContent = parts.join(" · ");
    for (const one of side.querySelectorAll("[data-kind='(out)'] span:last-child")) one.textContent = String(out);
  }

  // What is shown

  function filter() {
    const text = fold(state.text), { kind, word } = state;
    state.shown = state.items.filter((item) => {
      if (kind === OUT ? !item.out : kind && !item.findings.some((one) => state.findings[one].kind === kind)) return false;
      if (word && !item.captions.some((caption) => has(caption, word, state.words?.kind))) return false;
      return !text || fold(item.name).includes(text) || item.captions.some((one) => fold(one).includes(text));
    });
    all.disabled = !text && !kind && !word;
    pictures.top();
    pictures.show(state.shown);
    replacing.look();
    counted();
  }

  function entry(kind, chosen, sign, text, number, title, action) {
    const one = press("", title, action);
    if (sign) one.append(element("span", "sign", sign));
    one.append(element("span", "", text), element("span", "", number.toLocaleString()));
    one.className = tone(sign);
    one.dataset.kind = kind;
    one.setAttribute("aria-pressed", String(chosen));
    return one;
  }

  function aside() {
    const found = [element("h3", "", t("data_findings"))];
    const number = (index) => state.items.filter((item) => item.findings.includes(index)).length;
    const sorted = state.findings.map((one, index) => [one, number(index)]).sort((a, b) => Boolean(b[1]) - Boolean(a[1]));
    for (const [one, here] of sorted) {
      const [sign, word] = KINDS[one.kind] ?? ["!", ""], text = word ? t(word) : one.kind;
      const title = [one.message, ...one.lines].join("\n");
      if (here) {
        found.push(entry(one.kind, state.kind === one.kind, sign, text, here, title, () => {
          state.kind = state.kind === one.kind ? "" : one.kind;
          aside();
          filter();
        }));
      } else {
        const line = element("div", `said ${tone(sign)}`);
        line.title = title;
        line.append(element("span", "sign", sign), element("span", "", `${text}: ${one.message}`));
        found.push(line);
      }
    }
    if (!state.findings.length) found.push(element("div", "dim", t("data_no_findings")));
    const out = state.items.filter((item) => item.out).length;
    found.push(entry(OUT, state.kind === OUT, "–", t("data_out"), out, t("data_out_hint"), () => {
      state.kind = state.kind === OUT ? "" : OUT;
      aside();
      filter();
    }));
    if (state.words?.counts.length) {
      found.push(element("h3", "", t(state.words.kind === "tags" ? "data_tags" : "data_words")));
      for (const [word, times] of state.words.counts.slice(0, WORDS)) {
        found.push(entry("", state.word === word, "", word, times, "", () => {
          state.word = state.word === word ? "" : word;
          aside();
          filter();
        }));
      }
    }
    const focused = side.contains(document.activeElement) && [...side.children].indexOf(document.activeElement);
    const scrolled = side.scrollTop;
    side.replaceChildren(...found);
    side.scrollTop = scrolled;
    if (focused !== false) side.children[focused]?.focus({ preventScroll: true });
  }

  // Asks for everything; what was there stays the same object, so that nothing that is being edited is disturbed.
  async function load() {
    clearTimeout(reloading);
    const asked = request({ resolution: Number(size.value) || 512 });
    const [found, words] = await Promise.all([
      ask("/dataset/pictures", asked), ask("/dataset/words", asked).catch(() => null),
    ]);
    if (state.gone) return;
    const former = state.items.map((item) => item.name).join("\n"), out = new Set(found.excluded);
    Object.assign(state, { album: found.album, locked: found.locked, words });
    state.fixed = wired(node).includes("excluded");
    state.findings = found.findings.map(([kind, message, number, some, each]) => ({ kind, message, number, lines: some, each }));
    state.items = found.images.map(([name, shape, captions, source, findings, content]) => {
      const item = state.byName.get(name) ?? { name };
      const from = found.sources[source], stem = name.split("/").pop().replace(/\.[^.]*$/, "");
      return Object.assign(item, {
        shape: found.shapes[shape], captions, findings, content, out: out.has(name), source: from.replace("*", stem), address: undefined,
      });
    });
    state.byName = new Map(state.items.map((item) => [item.name, item]));
    outer.name.textContent = found.root;
    outer.name.title = found.root;
    const why = found.locked ? `${t("data_locked")} ${found.locked.why}. ${found.locked.cure}.` : "";
    note.textContent = [why, found.fault].filter(Boolean).join("\n");
    note.hidden = !note.textContent;
    swap.hidden = undo.hidden = redo.hidden = Boolean(found.locked);
    steps(found);
    aside();
    if (state.items.map((item) => item.name).join("\n") !== former) filter();
    else {
      pictures.redraw();
      counted();
    }
  }

  outer.element.addEventListener("keydown", (event) => {
    const field = /^(TEXTAREA|INPUT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (field || !(event.ctrlKey || event.metaKey) || event.altKey || state.locked) return;
    const key = event.key.toLowerCase(), again = key === "y" || (key === "z" && event.shiftKey);
    if (key !== "z" && !again) return;
    event.preventDefault();
    if (!(again ? redo : undo).disabled) step(again);
  });
  outer.element.addEventListener("cancel", (event) => {
    if (document.activeElement?.tagName === "TEXTAREA") event.preventDefault(); // Escape reverts a caption
  });

  function end() {
    const caption = state.editing && pictures.element.querySelector("textarea:focus");
    if (caption) save(state.editing, caption);
    state.gone = true;
    clearTimeout(typed);
    clearTimeout(reloading);
    pictures.destroy();
    replacing.destroy();
  }

  await load();
  outer.open();
  pictures.show(state.shown);
  pictures.focus(0);
}
