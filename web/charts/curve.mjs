// Curves over the steps of a run: drawn at most once a frame, and only where they are seen. The figures of a step are
// read out of them with the pointer, or with the arrow keys.
import { dress, element } from "../common.js";
import { t } from "../text.js";

// Of middling lightness, so that each can be told from a light ground and from a dark one.
const HUES = ["#3b82f6", "#d97706", "#8b5cf6", "#16a34a", "#db2777", "#0891b2", "#a16207", "#78716c"];
const SHAPES = ["circle", "square", "diamond", "triangle"];
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
// A kind is told by colour, by its dashes and by its markers. `own`: of another scale, which is on the right.
const KINDS = {
  raw: { hue: 0, dash: [], width: 1, alpha: 0.35 },
  smooth: { hue: 0, dash: [], width: 2 },
  validation: { hue: 1, dash: [6, 4], width: 1.5, shape: "circle" },
  train: { hue: 3, dash: [9, 3, 2, 3], width: 1.5, shape: "square" },
  drift: { hue: 2, dash: [2, 3], width: 1.5, shape: "diamond", own: true },
};
const LEFT = 46, RIGHT = 10, OWN = 48, TOP = 10, BOTTOM = 18;
const SHARPEST = 3; // pixels of the canvas to one of the page, when the graph is zoomed into
const FONT = "10px system-ui, sans-serif";
const STYLE = `
.darkroom-curve { display: flex; flex-direction: column; gap: 2px; min-width: 0; }
.darkroom-curve canvas { display: block; width: 100%; border-radius: 4px; cursor: crosshair; touch-action: pan-y; }
.darkroom-curve canvas:focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6); outline-offset: 1px; }
.darkroom-curve .legend { display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 11px; min-height: 1.5em;
  font-variant-numeric: tabular-nums; }
.darkroom-curve .legend span { display: inline-flex; align-items: center; gap: 4px; white-space: nowrap; }
.darkroom-curve .legend .at { min-width: 5.5em; color: var(--descrip-text, #999); }
.darkroom-curve svg { flex: none; }
`;

// A number of a loss as people read it.
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (!size || (size >= 1e-3 && size < 1e5)) return String(Number(value.toPrecision(4)));
  return value.toExponential(2).replace(/\.?0+e/, "e");
}

// The colour, dashes and marker of each series. One of a kind looks as its kind does; where there are several (runs side
// by side), those of the same place in their kinds share a colour, a marker and, as lines, their dashes.
function looks(series) {
  const places = new Map(), found = [];
  for (const { kind } of series) {
    const place = places.get(kind) ?? 0;
    places.set(kind, place + 1);
    found.push({ ...KINDS[kind], place });
  }
  if (Math.max(0, ...places.values()) < 2) return found.map((one) => ({ ...one, colour: HUES[one.hue] }));
  return found.map((one) => ({
    ...one,
    colour: HUES[one.place % HUES.length],
    dash: one.shape ? one.dash : DASHES[one.place % DASHES.length],
    shape: one.shape && SHAPES[one.place % SHAPES.length],
  }));
}

// The place of the last point at or before a step; -1: none.
function before(points, step) {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// [lowest, highest] of what is to be seen. Of a noisy curve the outermost hundredth may lie outside.
function range(series, faces, own) {
  let low = Infinity, high = -Infinity;
  series.forEach(({ kind, points }, index) => {
    if (Boolean(faces[index].own) !== own) return;
    const values = points.map((one) => one[1]).filter(Number.isFinite).sort((a, b) => a - b);
    if (!values.length) return;
    const cut = kind === "raw" ? Math.floor(values.length / 100) : 0;
    low = Math.min(low, values[cut]);
    high = Math.max(high, values[values.length - 1 - cut]);
  });
  if (low > high) return null;
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

// Round numbers in a range, about so many.
function ticks([low, high], about) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const each = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const first = Math.ceil(low / each), found = [];
  for (let at = first; at * each <= high && found.length < 20; at += 1) found.push(Number((at * each).toPrecision(12)));
  return found;
}

// Of many points in a column of pixels the lowest and the highest, in their order: the line looks the same.
function thinned(points, width, across) {
  if (points.length <= 2 * width) return points;
  const found = [];
  for (let at = 0; at < points.length;) {
    const column = Math.floor(across(points[at][0]));
    let low = points[at], high = low;
    for (; at < points.length && Math.floor(across(points[at][0])) === column; at += 1) {
      if (points[at][1] < low[1]) low = points[at];
      if (points[at][1] > high[1]) high = points[at];
    }
    if (low === high) found.push(low);
    else found.push(...(low[0] < high[0] ? [low, high] : [high, low]));
  }
  return found;
}

function marker(pen, shape, x, y, size) {
  pen.beginPath();
  if (shape === "circle") pen.arc(x, y, size, 0, 2 * Math.PI);
  else if (shape === "square") pen.rect(x - size, y - size, 2 * size, 2 * size);
  else {
    const corners = shape === "diamond" ? [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]] : [[0, -1.2], [1.2, 1], [-1.2, 1]];
    for (const [right, down] of corners) pen.lineTo(x + right * size, y + down * size);
  }
  pen.closePath();
  pen.fill();
}

// A sample of a series' line, for the legend.
function sample(look) {
  const lines = {
    circle: '<circle cx="12" cy="5" r="3"/>',
    square: '<rect x="9" y="2" width="6" height="6"/>',
    diamond: '<path d="M12 1 16 5 12 9 8 5z"/>',
    triangle: '<path d="M12 1 16 9H8z"/>',
  };
  const holder = document.createElement("span");
  const { colour, width, dash } = look;
  holder.innerHTML = `<svg width="24" height="10" aria-hidden="true" fill="${colour}" opacity="${look.alpha ? 0.55 : 1}">
    <path d="M0 5H24" fill="none" stroke="${colour}" stroke-width="${width}" stroke-dasharray="${dash.join(" ")}"/>
    ${lines[look.shape] ?? ""}</svg>`;
  return holder.firstElementChild;
}

// A chart. `height` in pixels; `label` is what it is called for whoever cannot see it.
// update({series: [{name, kind, points: [[step, value]]}], marks: [{step, name}]}): points in order of their steps; what is
// no finite number is a gap. Kinds: raw, smooth, validation, train, drift.
export function curve({ height = 160, label = "" } = {}) {
  dress("darkroom-curve-style", STYLE);
  const outer = element("div", "darkroom-curve"), canvas = element("canvas", ""), legend = element("div", "legend");
  canvas.style.height = `${height}px`;
  canvas.tabIndex = 0;
  // The arrow keys reach what is a slider, and its text is read out when they change it.
  canvas.setAttribute("role", "slider");
  canvas.setAttribute("aria-label", label);
  canvas.setAttribute("aria-readonly", "true");
  outer.append(canvas, legend);

  let series = [], marks = [], faces = [], steps = [], values = [];
  let chosen = null; // the step that is read out; null: the last one
  let frame = 0, seen = true, theme = null;
  let scales = null; // of what was drawn: {left, width, first, last}

  function update(next) {
    const named = JSON.stringify(series.map((one) => [one.name, one.kind]));
    series = next.series.filter((one) => one.points.length);
    marks = next.marks ?? [];
    faces = looks(series);
    steps = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    if (JSON.stringify(series.map((one) => [one.name, one.kind])) !== named) relabel();
    ask();
  }

  function relabel() {
    const at = element("span", "at");
    values = series.map(() => element("b", ""));
    legend.replaceChildren(at, ...series.map((one, index) => {
      const entry = element("span", "");
      entry.append(sample(faces[index]), element("span", "", one.name), values[index]);
      return entry;
    }));
  }

  function ask() {
    if (!frame && seen) frame = requestAnimationFrame(draw);
  }

  // What the curves say at a step.
  function read(step) {
    return series.map(({ points }) => {
      const at = before(points, step);
      return at < 0 ? null : points[at][1];
    });
  }

  function tell() {
    const step = chosen ?? steps.at(-1) ?? 0, found = read(step);
    const said = marks.filter((one) => one.step === step).map((one) => one.name);
    const head = [t("train_at_step", { step }), ...said].join(" · ");
    if (legend.firstChild) legend.firstChild.textContent = head;
    values.forEach((one, index) => { one.textContent = found[index] === null ? "–" : figure(found[index]); });
    canvas.setAttribute("aria-valuemin", String(steps[0] ?? 0));
    canvas.setAttribute("aria-valuemax", String(steps.at(-1) ?? 0));
    canvas.setAttribute("aria-valuenow", String(step));
    canvas.setAttribute("aria-valuetext",
      [head, ...series.map((one, index) => `${one.name} ${values[index].textContent}`)].join(", "));
  }

  function draw() {
    frame = 0;
    tell();
    const wide = canvas.clientWidth;
    if (!wide) return;
    const zoom = canvas.getBoundingClientRect().width / wide;
    const ratio = Math.min(SHARPEST, window.devicePixelRatio * Math.max(1, zoom));
    const pixels = [Math.round(wide * ratio), Math.round(height * ratio)];
    if (canvas.width !== pixels[0]) canvas.width = pixels[0];
    if (canvas.height !== pixels[1]) canvas.height = pixels[1];
    theme ??= colours();
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, wide, height);
    if (!steps.length) return;

    const own = range(series, faces, true), shared = range(series, faces, false) ?? own;
    const left = LEFT, width = wide - left - (own && shared !== own ? OWN : RIGHT), deep = height - TOP - BOTTOM;
    const first = Math.min(steps[0], steps.at(-1) > 1 ? Infinity : 0), last = Math.max(steps.at(-1), first + 1);
    scales = { left, width, first, last };
    const across = (step) => left + ((step - first) / (last - first)) * width;
    const down = (value, [low, high]) => TOP + (1 - (value - low) / (high - low)) * deep;

    pen.font = FONT;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    for (const tick of ticks(shared, 6)) {
      const y = Math.round(down(tick, shared)) + 0.5;
      pen.globalAlpha = 0.5;
      line(pen, [[left, y], [left + width, y]], theme.grid);
      pen.globalAlpha = 1;
      words(pen, figure(tick), left - 5, y, "right");
    }
    if (own && shared !== own) {
      const hue = faces.find((one) => one.own).colour;
      for (const tick of ticks(own, 4)) words(pen, figure(tick), left + width + 5, down(tick, own), "left", hue);
    }
    for (const tick of ticks([first, last], 6)) {
      if (Number.isInteger(tick)) words(pen, tick.toLocaleString(), across(tick), height - BOTTOM / 2, "center");
    }
    drawMarks(pen, across, left + width, deep);
    pen.save();
    pen.beginPath();
    pen.rect(left - 4, TOP - 6, width + 8, deep + 12);
    pen.clip();
    series.forEach((one, index) => drawSeries(pen, one, faces[index], across, faces[index].own ? own : shared, down));
    if (chosen !== null) drawChosen(pen, across, down, own, shared, deep);
    pen.restore();
  }

  function drawSeries(pen, { points }, look, across, scale, down) {
    pen.strokeStyle = pen.fillStyle = look.colour;
    pen.globalAlpha = look.alpha ?? 1;
    pen.lineWidth = look.width;
    pen.lineJoin = "round";
    pen.setLineDash(look.dash);
    pen.beginPath();
    let on = false;
    for (const [step, value] of thinned(points, scales.width, across)) {
      if (!Number.isFinite(value)) on = false;
      else {
        pen[on ? "lineTo" : "moveTo"](across(step), down(value, scale));
        on = true;
      }
    }
    pen.stroke();
    pen.setLineDash([]);
    // One point alone is no line.
    const shape = look.shape ?? (points.length === 1 ? "circle" : null);
    if (shape && points.length <= 100) {
      for (const [step, value] of points) {
        if (Number.isFinite(value)) marker(pen, shape, across(step), down(value, scale), 3);
      }
    }
    pen.globalAlpha = 1;
  }

  function drawMarks(pen, across, end, deep) {
    for (const { step, name } of marks) {
      const x = Math.round(across(step)) + 0.5;
      pen.setLineDash([3, 3]);
      line(pen, [[x, TOP], [x, TOP + deep]], theme.text);
      pen.setLineDash([]);
      pen.fillStyle = theme.text;
      marker(pen, "triangle", x, TOP - 4, 4);
      const right = x + pen.measureText(name).width + 8 < end;
      words(pen, name, x + (right ? 7 : -7), TOP - 3, right ? "left" : "right", theme.text);
    }
  }

  function drawChosen(pen, across, down, own, shared, deep) {
    const x = across(chosen);
    line(pen, [[x, TOP], [x, TOP + deep]], theme.dim);
    read(chosen).forEach((value, index) => {
      if (!Number.isFinite(value)) return;
      pen.fillStyle = faces[index].colour;
      marker(pen, faces[index].shape ?? "circle", x, down(value, faces[index].own ? own : shared), 4);
    });
  }

  function line(pen, points, colour) {
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    pen.stroke();
  }

  function words(pen, text, x, y, align, colour = theme.dim) {
    pen.fillStyle = colour;
    pen.textAlign = align;
    pen.fillText(text, x, y);
  }

  function colours() {
    const found = getComputedStyle(outer), of = (name, other) => found.getPropertyValue(name).trim() || other;
    return { text: of("--input-text", "#ddd"), dim: of("--descrip-text", "#999"), grid: of("--border-color", "#555") };
  }

  function choose(step) {
    if (step === chosen) return;
    chosen = step;
    ask();
  }

  // offsetX is in the canvas' own pixels, however the graph around it is zoomed.
  canvas.addEventListener("pointermove", ({ offsetX }) => {
    if (!scales || !steps.length) return;
    const { left, width, first, last } = scales, wanted = first + ((offsetX - left) / width) * (last - first);
    const next = steps.findIndex((one) => one > wanted); // -1: beyond the last one, which `at` then gives
    const low = steps.at(next === 0 ? 0 : next < 0 ? -1 : next - 1), high = steps.at(next);
    choose(Math.abs(low - wanted) <= Math.abs(high - wanted) ? low : high);
  });
  canvas.addEventListener("pointerleave", () => choose(null));
  canvas.addEventListener("blur", () => choose(null));
  canvas.addEventListener("keydown", (event) => {
    if (!steps.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = chosen === null ? steps.length - 1 : steps.indexOf(chosen);
    const tenth = Math.max(1, Math.round(steps.length / 10));
    const to = {
      ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1,
      PageDown: now - tenth, PageUp: now + tenth, Home: 0, End: steps.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the page moves nodes with the arrow keys
    choose(steps[Math.min(steps.length - 1, Math.max(0, to))]);
  });

  const watching = new IntersectionObserver((entries) => {
    seen = entries.at(-1).isIntersecting;
    if (seen) ask();
  });
  const sized = new ResizeObserver(ask);
  const themed = new MutationObserver(() => {
    theme = null;
    ask();
  });
  watching.observe(canvas);
  sized.observe(canvas);
  for (const one of [document.body, document.documentElement]) {
    themed.observe(one, { attributes: true, attributeFilter: ["class", "style"] });
  }

  function destroy() {
    cancelAnimationFrame(frame);
    frame = -1; // nothing is drawn any more
    for (const one of [watching, sized, themed]) one.disconnect();
    outer.remove();
  }

  return { element: outer, update, destroy };
}
