// Captions that are edited in their files, and undone; one request after the other.
import { ask } from "../common.js";
import { t } from "../text.js";
import { press } from "./dialog.mjs";

// {undo, redo: buttons; save(item, field), steps(found), key(event)}. `request`: the question with the data set's values;
// `load`: asks for everything anew; `saved`, `undone`: called when files have changed; `shown(item)`: it is to be shown
// anew. What was typed is saved though the pictures are closed meanwhile: so any of these may be called after that.
export function captions({ album, request, say, failed, load, saved, undone, shown }) {
  const undo = press(`↶ ${t("data_undo")}`, "", () => step(false));
  const redo = press(`↷ ${t("data_redo")}`, "", () => step(true));
  let saving = Promise.resolve();

  function save(item, field) {
    const several = item.captions.length > 1, text = field.value;
    const after = (several ? text.split("\n") : [text]).map((one) => one.replace(/\s+/g, " ").trim()).filter(Boolean);
    if (album.locked || after.join("\n") === item.captions.join("\n")) {
      delete item.draft;
      return saving;
    }
    item.draft = text;
    saving = saving.then(async () => {
      try {
        const found = await ask("/dataset/caption", request({ image: item.name, before: item.captions, after }));
        item.captions = found.captions;
        item.source = found.source;
        if (item.draft === text) delete item.draft;
        steps(found);
        say(t("data_saved", { file: found.files.join(", ") || found.source }));
        saved();
      } catch (error) {
        failed(error);
        await load().catch(() => null);
      }
      shown(item);
    });
    return saving;
  }

  // What can be undone and done again.
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
      for (const item of album.items) delete item.draft;
      await load();
      say(t(again ? "data_redone" : "data_undone", { what: found.title }));
      undone();
    } catch (error) {
      failed(error);
    }
  }

  // Ctrl+Z, where it is not a field's own.
  function key(event) {
    const field = /^(TEXTAREA|INPUT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (field || !(event.ctrlKey || event.metaKey) || event.altKey || album.locked) return;
    const name = event.key.toLowerCase(), again = name === "y" || (name === "z" && event.shiftKey);
    if (name !== "z" && !again) return;
    event.preventDefault();
    if (!(again ? redo : undo).disabled) step(again);
  }

  return { undo, redo, save, steps, key };
}
