// A sample as large as the window, alone or beside the same prompt's of another step. Escape closes it, and the focus is
// where it was.
import { dress, element } from "../common.js";
import { t } from "../text.js";
import { STYLE } from "./style.mjs";
import { bySteps } from "./strip.mjs";

let last = 0; // ids of what labels a dialog

// Opens a dialog. `samples` are all of a run, `address` gives a picture's; it begins with a step and a prompt's place.
// Returns a function that closes it.
export function compare({ samples, address, step, index, best }) {
  dress("darkroom-training-style", STYLE);
  const steps = bySteps(samples), places = [...new Map(samples.map((one) => [one.index, one.prompt]))];
  places.sort(([a], [b]) => a - b);
  const dialog = element("dialog", "darkroom-compare"), top = element("div", "top"), sides = element("div", "sides");
  const prompts = element("select", ""), both = element("button", "", t("train_side_by_side"));
  const closing = element("button", "", t("close"));
  for (const [place, prompt] of places) {
    const option = element("option", "", prompt || "–");
    option.value = String(place);
    prompts.append(option);
  }
  prompts.value = String(index);
  prompts.setAttribute("aria-label", t("train_prompt"));
  both.type = closing.type = "button";
  both.hidden = steps.length < 2;
  dialog.setAttribute("aria-label", t("train_samples"));
  top.append(prompts, both, closing);
  dialog.append(top, sides);

  const at = Math.max(0, steps.findIndex(([one]) => one === step));
  const shown = [side(at), side(at === 0 ? steps.length - 1 : 0)], [clicked, other] = shown.map((one) => one.figure);
  sides.append(...(at === 0 ? [clicked, other] : [other, clicked])); // the earlier one on the left
  pair(false);

  // One picture, or text, with its slider.
  function side(first) {
    const figure = element("figure", ""), image = element("img", ""), text = element("div", "said");
    const caption = element("figcaption", ""), slider = element("input", ""), name = element("span", "step");
    const id = `darkroom-compare-${(last += 1)}`;
    slider.type = "range";
    slider.min = "0";
    slider.max = String(steps.length - 1);
    slider.value = String(first);
    slider.setAttribute("aria-label", t("train_samples_of_step"));
    slider.hidden = steps.length < 2;
    name.id = id;
    figure.setAttribute("aria-labelledby", id);
    caption.append(name, slider);
    figure.append(image, text, caption);
    slider.addEventListener("input", draw);

    function draw() {
      const [now, drawn] = steps[Number(slider.value)], one = drawn.find((each) => each.index === Number(prompts.value));
      const said = t(now === best ? "train_best_step" : "train_at_step", { step: now });
      name.textContent = said;
      slider.setAttribute("aria-valuetext", said);
      image.hidden = !one?.picture;
      text.hidden = Boolean(one?.picture);
      text.textContent = one?.answer || t("train_no_picture");
      if (one?.picture) {
        image.src = address(one.picture);
        image.alt = `${one.prompt}, ${said}`;
      }
    }
    return { figure, draw };
  }

  function pair(two) {
    both.setAttribute("aria-pressed", String(two));
    sides.classList.toggle("two", two);
    shown[1].figure.hidden = !two;
    shown.forEach((one) => one.draw());
  }

  prompts.addEventListener("change", () => shown.forEach((one) => one.draw()));
  both.addEventListener("click", () => pair(both.getAttribute("aria-pressed") !== "true"));
  closing.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { // beside it
    if (event.target === dialog && !inside(dialog, event)) dialog.close();
  });
  // Keys are the dialog's, not the graph's.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  const back = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    back?.focus?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return () => dialog.open && dialog.close();
}

function inside(dialog, { clientX, clientY }) {
  const box = dialog.getBoundingClientRect();
  return clientX >= box.left && clientX <= box.right && clientY >= box.top && clientY <= box.bottom;
}
