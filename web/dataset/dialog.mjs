// A large dialog over the page, of the browser's own kind: it keeps the focus, ends with Escape, and while it is open
// ComfyUI's own keys wait.
import { dress, element } from "../common.js";
import { t } from "../text.js";
import { STYLE } from "./style.mjs";

// {element, head, body, open(), close()}; `ended` runs once when it is closed, however that is done.
export function dialog(title, ended) {
  dress("darkroom-dataset-style", STYLE);
  const before = document.activeElement;
  const outer = element("dialog", "darkroom-dialog");
  outer.setAttribute("aria-label", title);
  const head = element("div", "head"), name = element("h2", "", title), body = element("div", "body");
  const close = element("button", "close", "✕");
  close.type = "button";
  close.title = t("close");
  close.setAttribute("aria-label", t("close"));
  close.addEventListener("click", () => outer.close());
  head.append(name, element("span", "spring"), close);
  outer.append(head, body);
  for (const kind of ["keydown", "keyup", "keypress", "wheel", "pointerdown", "paste", "copy", "cut", "contextmenu"]) {
    outer.addEventListener(kind, (event) => event.stopPropagation(), { passive: true }); // nothing of it is the graph's
  }
  outer.addEventListener("close", () => {
    outer.remove();
    ended?.();
    before?.focus?.();
  }, { once: true });
  return {
    element: outer, head, body, name,
    open() {
      document.body.append(outer);
      outer.showModal();
    },
    close: () => outer.close(),
  };
}

// A button in it.
export function press(text, title, action) {
  const one = element("button", "", text);
  one.type = "button";
  if (title) one.title = title;
  one.addEventListener("click", action);
  return one;
}
