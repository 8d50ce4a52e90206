// Find and replace in the captions that are shown; what it will do is seen before.
import { ask, element } from "../common.js";
import { count, t } from "../text.js";

const TYPED = 250; // ms without a key

// {element, toggle(), look(), destroy()}. `request`: the question with the data set's values; `images`: names, or null for
// all; `done`: called when captions were changed.
export function replacer({ request, images, say, failed, done }) {
  const outer = element("div", "replace"), fields = element("div", "fields"), options = element("div", "options");
  const preview = element("div", "preview");
  outer.hidden = true;
  preview.setAttribute("aria-live", "polite");
  let typed = 0, asked = "";

  function field(name) {
    const label = element("label", "", t(name)), input = document.createElement("input");
    input.setAttribute("aria-label", t(name));
    input.addEventListener("input", soon);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !go.disabled) go.click();
    });
    fields.append(label, input);
    return input;
  }

  function option(name) {
    const label = element("label", ""), box = document.createElement("input");
    box.type = "checkbox";
    box.addEventListener("change", soon);
    label.append(box, element("span", "", t(name)));
    options.append(label);
    return box;
  }

  const find = field("data_find_what"), put = field("data_put");
  const whole = option("data_whole"), same = option("data_case");
  const go = element("button", "", t("data_replace_all"));
  go.type = "button";
  go.disabled = true;
  go.addEventListener("click", async () => {
    go.disabled = true;
    try {
      const found = await ask("/dataset/replace", request({ ...question(), preview: false }));
      await done();
      say(t("data_replaced", { captions: count("caption", found.captions), places: found.places }));
      look();
    } catch (error) {
      failed(error);
      look();
    }
  });
  options.append(go);
  outer.append(fields, options, preview);

  const question = () => ({
    find: find.value, put: put.value, whole: whole.checked, case: same.checked, images: images(),
  });

  // What is seen is no longer what would be done.
  function soon() {
    go.disabled = true;
    asked = "";
    clearTimeout(typed);
    typed = setTimeout(look, TYPED);
  }

  // The caption with what falls away and what comes, from the first letter that differs to the last.
  function line([name, before, after]) {
    const one = element("div", "");
    let start = 0, end = 0;
    while (start < Math.min(before.length, after.length) && before[start] === after[start]) start += 1;
    while (end < Math.min(before.length, after.length) - start && before.at(-1 - end) === after.at(-1 - end)) end += 1;
    const old = element("del", "", before.slice(start, before.length - end));
    const fresh = element("ins", "", after.slice(start, after.length - end));
    const ahead = before.slice(Math.max(0, start - 30), start);
    one.append(element("span", "dim", `${name}: ${start > 30 ? "…" : ""}`), ahead.trimStart(), old, fresh, before.slice(before.length - end));
    one.title = `${before}\n→ ${after}`;
    return one;
  }

  async function look() {
    if (outer.hidden) return;
    go.disabled = true;
    if (!find.value) {
      asked = "";
      preview.replaceChildren(element("div", "dim", t("data_replace_hint")));
      return;
    }
    const now = question();
    asked = JSON.stringify(now);
    try {
      const found = await ask("/dataset/replace", request({ ...now, preview: true }));
      if (asked !== JSON.stringify(now)) return;
      const told = found.captions
        ? t("data_will", { captions: count("caption", found.captions), places: found.places })
        : t("data_nothing_found");
      const more = found.captions - found.shown.length;
      preview.replaceChildren(element("div", "", told), ...found.shown.map(line),
        ...(more > 0 ? [element("div", "dim", t("and_more", { number: more }))] : []));
      go.disabled = !found.captions;
    } catch (error) {
      if (asked !== JSON.stringify(now)) return;
      preview.replaceChildren(element("div", "error", error.message));
    }
  }

  return {
    element: outer, look,
    toggle() {
      outer.hidden = !outer.hidden;
      if (!outer.hidden) find.focus();
      look();
    },
    destroy: () => clearTimeout(typed),
  };
}
