// A tile of the gallery: a picture with what is trained of it, its caption as it can be edited, and what is found about it.
import { element } from "../common.js";
import { plain } from "../messages/plain.mjs";
import { t } from "../text.js";
import { told } from "./kinds.mjs";
import { frame, place } from "./picture.mjs";

// {make(), fill(tile, item)}, as grid.mjs wants them. `save(item, field)`: its caption; `include(item, on)`: whether it is
// trained; `enlarge(item)`.
export function tiles({ album, save, include, enlarge }) {
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
    caption.addEventListener("blur", () => save(tile.item, caption));
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
    tile.use.disabled = album.fixed;
    tile.use.setAttribute("aria-label", t("data_train_on", { name: item.name }));
    tile.use.title = t(album.fixed ? "data_excluded_wired" : "data_include");
    tile.view.setAttribute("aria-label", t("data_larger", { name: item.name }));
    if (document.activeElement !== tile.caption) {
      tile.caption.value = item.draft ?? item.captions.join("\n");
      tile.caption.classList.toggle("unsaved", item.draft !== undefined);
    }
    tile.caption.readOnly = Boolean(album.locked);
    tile.caption.placeholder = t("data_no_caption_yet");
    tile.caption.setAttribute("aria-label", t("data_caption_of", { name: item.name }));
    tile.caption.title = item.source ? t("data_from", { file: item.source }) : "";
    const said = item.findings.map((index) => ({ ...album.findings[index], ...told(album.findings[index].kind) }));
    tile.badges.replaceChildren(
      ...(item.out ? [badge({ sign: "–", text: t("data_out"), tone: "" }, "")] : []),
      ...said.map((one) => badge(one, plain(one.each[item.name] ?? one.message))),
    );
    tile.setAttribute("aria-label", [
      item.name, t("data_trained_at", { size: `${width}×${height}`, bucket: `${bucket[0]}×${bucket[1]}` }),
      item.out ? t("data_out") : "", item.captions.join("; "), ...said.map((one) => one.text),
    ].filter(Boolean).join(". "));
  }

  return { make, fill };
}

function badge({ sign, text, tone }, title) {
  const one = element("span", `badge ${tone}`), mark = element("span", "sign", sign);
  mark.setAttribute("aria-hidden", "true");
  one.append(mark, element("span", "", text));
  one.title = title;
  return one;
}
