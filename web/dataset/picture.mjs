// A picture with what is trained of it: the crop in its frame, and the size of its bucket; small, and as large as it fits.
import { element } from "../common.js";
import { t } from "../text.js";

// {element, image, crop, bucket}
export function frame() {
  const outer = element("span", "picture"), image = document.createElement("img");
  image.alt = "";
  image.decoding = "async";
  image.draggable = false;
  const crop = element("span", "crop"), bucket = element("span", "bucket");
  outer.append(image, crop, bucket);
  return { element: outer, image, crop, bucket };
}

// Fits the picture into so many pixels, and the crop into the picture.
export function place({ element: outer, crop, bucket }, shape, across, down) {
  const [width, height, wide, high, resized, tall, left, top] = shape;
  const scale = Math.min(across / width, down / height);
  outer.style.width = `${Math.max(1, Math.round(width * scale))}px`;
  outer.style.height = `${Math.max(1, Math.round(height * scale))}px`;
  const part = (value, whole) => `${(100 * value) / whole}%`;
  crop.style.left = part(left, resized);
  crop.style.top = part(top, tall);
  crop.style.width = part(wide, resized);
  crop.style.height = part(high, tall);
  bucket.textContent = `${wide}×${high}`;
}

// One picture over all else; arrow keys lead to the next. `next(item, by)`: another one, if there is; `ended(item)`.
export function larger({ item, address, crops, next, ended }) {
  const outer = element("dialog", "darkroom-dialog darkroom-large"), drawn = frame();
  const name = element("p", ""), caption = element("p", "dim");
  outer.append(drawn.element, name, caption);
  function show() {
    const [width, height, wide, high] = item.shape;
    place(drawn, item.shape, window.innerWidth * 0.92, window.innerHeight * 0.8);
    drawn.crop.hidden = drawn.bucket.hidden = !crops;
    drawn.image.src = address(item);
    drawn.image.alt = item.name;
    outer.setAttribute("aria-label", t("data_larger", { name: item.name }));
    name.textContent = `${item.name} · ${t("data_trained_at", { size: `${width}×${height}`, bucket: `${wide}×${high}` })}`;
    caption.textContent = item.captions.join(" / ");
  }
  outer.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const other = by && next(item, by);
    if (!other) return;
    event.preventDefault();
    item = other;
    show();
  });
  outer.addEventListener("click", () => outer.close());
  outer.addEventListener("close", () => {
    outer.remove();
    ended(item);
  }, { once: true });
  document.body.append(outer);
  show();
  outer.showModal();
}
