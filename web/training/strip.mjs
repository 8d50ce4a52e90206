// The samples of a run: those of one step, a slider over the steps, and under it the film of all of them. Of texts the
// answers. A click enlarges one, and sets it beside that of another step (compare.mjs).
import { element } from "../common.js";
import { t } from "../text.js";

// The samples by their steps: [[step, [sample, ...]], ...], in order.
export function bySteps(samples) {
  const found = new Map();
  for (const one of samples) found.set(one.step, [...(found.get(one.step) ?? []), one]);
  return [...found];
}

// A strip. `enlarge(step, index)` is called for a sample that is clicked; `address` gives a picture's.
export function strip({ enlarge, address }) {
  const outer = element("div", "darkroom-strip"), shots = element("div", "shots"), film = element("div", "film");
  const slide = element("label", "slide"), slider = element("input", ""), said = element("span", "step");
  slider.type = "range";
  slider.min = "0";
  slider.step = "1";
  slider.setAttribute("aria-label", t("train_samples_of_step"));
  said.setAttribute("aria-hidden", "true"); // the slider says it
  slide.append(slider, said);
  // The same by mouse as the slider is by keys.
  film.setAttribute("aria-hidden", "true");
  // The wheel moves the film, not the graph.
  film.addEventListener("wheel", (event) => {
    if (film.scrollWidth <= film.clientWidth) return;
    film.scrollLeft += event.deltaX || event.deltaY;
    event.stopPropagation();
    event.preventDefault();
  });
  for (const kind of ["pointerdown", "pointermove"]) slider.addEventListener(kind, (event) => event.stopPropagation());
  outer.append(shots, slide, film);

  let steps = [], best = null, most = 1;
  let chosen = null; // a step; null: the newest, whichever that is

  slider.addEventListener("input", () => choose(steps[Number(slider.value)]?.[0]));
  slider.addEventListener("keydown", (event) => event.stopPropagation()); // the page moves nodes with the arrow keys

  function choose(step) {
    chosen = step === steps.at(-1)?.[0] ? null : step;
    draw();
  }

  // `drawn`: how many a step will have.
  function update(samples, kept, drawn) {
    steps = bySteps(samples);
    most = Math.max(drawn, ...steps.map(([, all]) => all.length));
    best = kept?.step ?? null;
    outer.hidden = !steps.length;
    if (!steps.some(([step]) => step === chosen)) chosen = null;
    draw();
  }

  function draw() {
    if (!steps.length) return;
    const place = chosen === null ? steps.length - 1 : steps.findIndex(([step]) => step === chosen);
    const [step, now] = steps[place], name = called(step);
    const follows = film.scrollLeft + film.clientWidth >= film.scrollWidth - 60;
    slide.hidden = film.hidden = steps.length < 2;
    slider.max = String(steps.length - 1);
    slider.value = String(place);
    slider.setAttribute("aria-valuetext", name);
    said.textContent = name;
    if (now.some((one) => one.answer)) {
      film.hidden = true;
      fill(shots, now, answer, (part, one) => {
        part.one = one;
        part.children[0].textContent = one.prompt;
        part.children[1].textContent = one.answer;
        part.children[1].setAttribute("aria-label", t("train_answer_at", { step }));
      });
      shots.style.display = "flex";
      shots.style.flexDirection = "column";
      return;
    }
    // Room for all of a step, so that nothing moves while one after the other is drawn.
    shots.style.setProperty("--most", String(most));
    fill(shots, now, shot, (part, one) => {
      part.one = one;
      show(part.children[0], one);
      part.children[1].textContent = one.prompt;
      part.title = one.prompt;
      part.setAttribute("aria-label", t("train_enlarge", { step, prompt: one.prompt }));
    });
    if (!film.hidden) {
      fill(film, steps, thumb, (part, [at, samples]) => {
        part.at = at;
        show(part.children[0], samples[0]);
        part.children[1].textContent = at === best ? `★ ${at}` : String(at);
        part.title = called(at);
        part.classList.toggle("on", at === step);
      });
      if (chosen === null && follows) film.scrollLeft = film.scrollWidth;
    }
  }

  function called(step) {
    return step === best ? t("train_best_step", { step }) : t("train_at_step", { step });
  }

  function show(image, one) {
    const source = one.picture ? address(one.picture) : "";
    if (image.dataset.source === source) return;
    image.dataset.source = source;
    image.alt = one.picture ? one.prompt : t("train_no_picture");
    if (source) image.src = source;
    else image.removeAttribute("src");
  }

  function shot() {
    const part = element("button", "shot"), image = picture();
    part.type = "button";
    part.append(image, element("span", "prompt"));
    part.addEventListener("click", () => enlarge(part.one.step, part.one.index));
    return part;
  }

  function answer() {
    const part = element("div", "answer"), text = element("div", "said");
    text.setAttribute("role", "group");
    text.addEventListener("wheel", (event) => event.stopPropagation(), { passive: true });
    const open = element("button", "", t("train_compare"));
    open.type = "button";
    open.addEventListener("click", () => enlarge(part.one.step, part.one.index));
    part.append(element("div", "prompt"), text, open);
    return part;
  }

  function thumb() {
    const part = element("button", "thumb"), image = picture();
    part.type = "button";
    part.tabIndex = -1;
    part.append(image, element("span", ""));
    part.addEventListener("click", () => choose(part.at));
    return part;
  }

  return { element: outer, update };
}

function picture() {
  const image = element("img", "picture");
  image.loading = "lazy";
  image.decoding = "async";
  image.draggable = false;
  return image;
}

// As many children as there are things; those that are there are used again.
function fill(parent, things, make, update) {
  while (parent.children.length > things.length) parent.lastChild.remove();
  while (parent.children.length < things.length) parent.append(make());
  things.forEach((one, place) => update(parent.children[place], one));
}
