// A grid of very many pictures of which only those in sight are in the page; walked through with the arrow keys.
import { element } from "../common.js";

const TILE = 232, HEIGHT = 352, GAP = 10, SPARE = 2; // px; rows beyond the edges
const AT_ONCE = 1; // rows made in a frame: the page stays quick
const SETTLED = 90; // ms without scrolling, before pictures that are not known yet are fetched

// {element, show(items), changed(item), focus(index), current(), destroy()}.
// make() -> a tile; fill(tile, item): what is in it; load(tile, item, now): its picture, which may wait unless `now`;
// pressed(event, item, tile): a key on a tile that does not move.
export function grid({ label, none, make, fill, load, pressed }) {
  const outer = element("div", "darkroom-grid"), space = element("div", "space"), empty = element("div", "none dim", none);
  outer.setAttribute("role", "grid");
  outer.setAttribute("aria-label", label);
  outer.append(space, empty);
  const rows = new Map(), spare = []; // place -> row; rows that can be used again
  let items = [], columns = 1, at = 0, frame = 0, settled = 0, quiet = true;

  const count = () => Math.ceil(items.length / columns);

  function row(place) {
    const one = spare.pop() ?? element("div", "line");
    one.setAttribute("role", "row");
    one.setAttribute("aria-rowindex", place + 1);
    one.style.transform = `translateY(${place * HEIGHT}px)`;
    one.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    one.style.height = `${HEIGHT}px`;
    const mine = items.slice(place * columns, (place + 1) * columns);
    while (one.children.length > mine.length) one.lastChild.remove();
    mine.forEach((item, column) => {
      const tile = one.children[column] ?? one.appendChild(make());
      put(tile, item, place * columns + column);
    });
    rows.set(place, one);
    if (!one.isConnected) space.append(one);
  }

  function put(tile, item, index) {
    tile.item = item;
    tile.setAttribute("aria-colindex", (index % columns) + 1);
    tile.tabIndex = index === at ? 0 : -1;
    fill(tile, item);
    load(tile, item, quiet);
  }

  // What is in sight, a row a frame, the middle first; what is edited stays though it is out of sight.
  function draw() {
    frame = 0;
    const first = Math.max(0, Math.floor(outer.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(count() - 1, Math.floor((outer.scrollTop + outer.clientHeight) / HEIGHT) + SPARE);
    for (const [place, one] of rows) {
      if ((place >= first && place <= last) || one.contains(document.activeElement)) continue;
      rows.delete(place);
      keepRow(one);
    }
    const missing = [];
    for (let place = first; place <= last; place += 1) if (!rows.has(place)) missing.push(place);
    const middle = outer.scrollTop + outer.clientHeight / 2;
    missing.sort((a, b) => Math.abs((a + 0.5) * HEIGHT - middle) - Math.abs((b + 0.5) * HEIGHT - middle));
    missing.slice(0, AT_ONCE).forEach(row);
    if (missing.length > AT_ONCE) soon();
    else if (quiet) order();
  }

  // While it is scrolled a row that is used again stays in the page: to put it there anew takes the browser longer.
  function keepRow(one) {
    one.style.transform = "translateY(-10000px)";
    spare.push(one);
  }

  // For whoever reads the page without seeing it, rows follow each other as they do for the eye.
  function order() {
    const sorted = [...rows].sort((a, b) => a[0] - b[0]).map(([, one]) => one);
    const now = [...space.children].filter((one) => sorted.includes(one));
    if (sorted.every((one, index) => one === now[index])) return;
    const held = sorted.find((one) => one.contains(document.activeElement)); // moved, it would lose the focus
    let behind = !held;
    for (const one of sorted) {
      if (one === held) behind = true;
      else if (behind) space.append(one);
      else held.before(one);
    }
  }

  function tidy() {
    for (const one of spare) one.remove();
    spare.length = Math.min(spare.length, 8);
  }

  function soon() {
    frame ||= requestAnimationFrame(draw);
  }

  function again() {
    if (outer.contains(document.activeElement)) document.activeElement.blur(); // a caption that is edited is saved
    for (const one of rows.values()) keepRow(one);
    rows.clear();
    tidy();
    if (!outer.clientWidth) return; // not shown yet
    columns = Math.max(1, Math.floor((outer.clientWidth - 24 + GAP) / (TILE + GAP)));
    space.style.height = `${count() * HEIGHT + GAP}px`;
    outer.setAttribute("aria-rowcount", count());
    outer.setAttribute("aria-colcount", columns);
    space.hidden = !items.length;
    empty.hidden = items.length > 0;
    draw();
  }

  const tileOf = (index) => rows.get(Math.floor(index / columns))?.children[index % columns];

  function focus(index) {
    if (!items.length) return;
    const former = tileOf(at);
    at = Math.max(0, Math.min(items.length - 1, index));
    if (former) former.tabIndex = -1;
    const place = Math.floor(at / columns), top = place * HEIGHT;
    if (top < outer.scrollTop) outer.scrollTop = top;
    else if (top + HEIGHT + GAP > outer.scrollTop + outer.clientHeight) outer.scrollTop = top + HEIGHT + GAP - outer.clientHeight;
    if (!rows.has(place)) row(place);
    const tile = tileOf(at);
    tile.tabIndex = 0;
    tile.focus({ preventScroll: true });
    soon();
  }

  outer.addEventListener("scroll", () => {
    quiet = false;
    clearTimeout(settled);
    settled = setTimeout(() => {
      quiet = true;
      tidy();
      order();
      for (const one of rows.values()) for (const tile of one.children) load(tile, tile.item, true);
    }, SETTLED);
    soon();
  }, { passive: true });

  outer.addEventListener("focusin", (event) => {
    const tile = event.target.closest(".darkroom-tile");
    const index = tile ? items.indexOf(tile.item) : -1;
    if (index < 0 || index === at) return;
    const former = tileOf(at);
    if (former) former.tabIndex = -1;
    at = index;
    tile.tabIndex = 0;
  });

  outer.addEventListener("keydown", (event) => {
    const tile = event.target;
    if (!tile.classList.contains("darkroom-tile")) return;
    const page = Math.max(1, Math.floor(outer.clientHeight / HEIGHT)) * columns;
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
      PageUp: at - page, PageDown: at + page, Home: 0, End: items.length - 1,
    }[event.key];
    if (to === undefined || event.altKey || event.metaKey) return pressed(event, tile.item, tile);
    event.preventDefault();
    if (to >= 0 && to < items.length) focus(to);
    else if (event.key.startsWith("Page")) focus(to);
    return undefined;
  });

  const size = new ResizeObserver(() => {
    const now = Math.max(1, Math.floor((outer.clientWidth - 24 + GAP) / (TILE + GAP)));
    if (now !== columns || !rows.size) again();
    else soon();
  });
  size.observe(outer);

  return {
    element: outer,
    show(list) {
      const item = items[at];
      items = list;
      at = Math.max(0, items.indexOf(item));
      again();
    },
    changed(item) {
      for (const one of rows.values()) for (const tile of one.children) if (tile.item === item) fill(tile, item);
    },
    redraw() {
      for (const one of rows.values()) for (const tile of one.children) fill(tile, tile.item);
    },
    top: () => { outer.scrollTop = 0; },
    focus, tileOf,
    place: (item) => items.indexOf(item),
    item: (index) => items[index],
    destroy() {
      cancelAnimationFrame(frame);
      clearTimeout(settled);
      size.disconnect();
    },
  };
}
