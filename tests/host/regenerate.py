"""Writes what the pack ships and a server must make: `python -m tests.host.regenerate WHAT ...`.

WHAT is one or several of templates (workflows/*.json, laid out by ComfyUI's own page), thumbnails (the pictures beside
them, made by running the templates), screenshots (the README's graphs, and the thumbnails that show a graph), pages
(the pictures of docs/pages that are of a training), blueprints (subgraphs/*.json), locales (the English texts, from the
nodes themselves; the Chinese ones are written by hand), object_info (what saved graphs rely on).
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.conftest import REPO
from tests.host.browser import close_dialogs, open_page, open_template, run_by_click, set_widgets
from tests.host.pages import write_pages
from tests.host.server import ComfyServer
from tests.host.templates import ASKED, CHECKPOINTS, DEMO, SD15, SDXL, TEMPLATES, Template
from tests.host.test_object_info import STORED, signatures
from trainer import sheet
from trainer.demo import world
from trainer.families import sd15_random, sdxl_random

QUICK = "Train LoRA (quick)"
# Of each node in the blueprint, the widgets that stand on its outside.
OUTSIDE = {
    "Darkroom_LoadDataset": ("folder", "trigger_word"),
    "Darkroom_LoRATrainConfig": ("epochs", "lora_rank", "learning_rate", "resolution"),
}
TILE, GAP = 256, 8
BACKGROUND = (24, 24, 27)


ARRANGE = """
async ([graph, layout, note, at, name]) => {
  await window.app.loadApiJson(graph, name);
  const all = window.app.graph;
  for (const [id, place] of Object.entries(layout)) {
    const node = all.getNodeById(Number(id));
    node.pos = place.pos;
    node.setSize(place.size);
    if (place.title) node.title = place.title;
    for (const widget of node.widgets ?? []) {
      if (widget.name === "control_after_generate") widget.value = "fixed";
    }
  }
  const text = window.LiteGraph.createNode("MarkdownNote");
  all.add(text);
  text.pos = at.slice(0, 2);
  text.setSize(at.slice(2));
  text.title = "How to use this";
  text.widgets[0].value = note;
  const saved = all.serialize();
  saved.extra = {};
  return JSON.stringify(saved);  // as the page saves it: without what is undefined, which would come as null
}
"""

QUICKLY = """
([name, outside]) => {
  const all = window.app.graph;
  all.clear();
  const make = (type, x, y) => {
    const node = window.LiteGraph.createNode(type);
    all.add(node);
    node.pos = [x, y];
    return node;
  };
  const wire = (from, slot, to, input) => from.connect(slot, to, to.inputs.findIndex(i => i.name === input));
  const data = make("Darkroom_LoadDataset", 0, 0), config = make("Darkroom_LoRATrainConfig", 360, 0);
  const train = make("Darkroom_TrainLoRA", 720, 0);
  // What is wired from and to the outside becomes the subgraph's own inputs and outputs.
  const base = make("CheckpointLoaderSimple", -400, 0), apply = make("Darkroom_ApplyLoRA", 1100, 0);
  const save = make("Darkroom_SaveLoRA", 1100, 300);
  wire(data, 0, train, "dataset");
  wire(config, 0, train, "config");
  ["model", "clip", "vae"].forEach((input, slot) => wire(base, slot, train, input));
  wire(train, 0, apply, "lora");
  wire(train, 2, save, "samples");
  const { subgraph, node } = all.convertToSubgraph(new Set([data, config, train]));
  subgraph.name = node.title = name;
  const inner = subgraph.nodes;
  node.properties.proxyWidgets = Object.entries(outside).flatMap(
    ([type, names]) => names.map(widget => [String(inner.find(n => n.type === type).id), widget]));
  node.properties.previewExposures = []; // Train LoRA's panel says what its hidden text does
  for (const other of [base, apply, save]) all.remove(other);
  const saved = all.serialize();
  saved.extra = {};
  return JSON.stringify(saved);  // as the page saves it: without what is undefined, which would come as null
}
"""


FIT = """
() => {
  const nodes = app.graph.nodes, box = app.canvas.canvas.getBoundingClientRect(), ds = app.canvas.ds;
  const low = i => Math.min(...nodes.map(n => n.pos[i])), high = i => Math.max(...nodes.map(n => n.pos[i] + n.size[i]));
  ds.scale = Math.min((box.width - 140) / (high(0) - low(0)), (box.height - 180) / (high(1) - low(1)));
  ds.offset = [100 / ds.scale - low(0), 130 / ds.scale - low(1)];
  app.canvas.setDirty(true, true);
}
"""

FRAME = """
() => {
  const { offset: [dx, dy], scale } = app.canvas.ds, nodes = app.graph.nodes;
  const box = app.canvas.canvas.getBoundingClientRect();
  const low = i => Math.min(...nodes.map(n => n.pos[i])), high = i => Math.max(...nodes.map(n => n.pos[i] + n.size[i]));
  return [box.left + (low(0) - 20 + dx) * scale, box.top + (low(1) - 50 + dy) * scale,
          box.left + (high(0) + 20 + dx) * scale, box.top + (high(1) + 20 + dy) * scale];
}
"""


def write_json(path: Path, data: Any) -> None:
    """As the page writes it, but for what tells of this machine's language and versions."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            dropped = ("localized_name", "ver", "cnr_id", "aux_id")
            return {key: plain(one) for key, one in value.items() if key not in dropped}
        return [plain(one) for one in value] if isinstance(value, list) else value

    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(plain(data), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_templates(comfy: ComfyServer) -> None:
    """Let the page lay out the graphs and write them as a user would save them."""
    for name, make in TEMPLATES.items():
        made = make()
        with open_page(comfy) as (page, _):  # a page of its own: a page remembers the widgets of former graphs
            close_dialogs(page)
            saved = page.evaluate(ARRANGE, [made.graph, made.layout, made.note, list(made.note_at), name])
        write_json(REPO / "workflows" / f"{name}.json", json.loads(saved))


def write_blueprints(comfy: ComfyServer) -> None:
    """The subgraph that trains in one node."""
    with open_page(comfy) as (page, _):
        close_dialogs(page)
        saved = page.evaluate(QUICKLY, [QUICK, OUTSIDE])
        write_json(REPO / "subgraphs" / f"{QUICK}.json", json.loads(saved))


def write_thumbnails(comfy: ComfyServer) -> None:
    """Run what runs on the demo base, for its pictures; of the others show the graph."""
    for name, make in TEMPLATES.items():
        picture = graph_of(comfy, name) if name in CHECKPOINTS else pictures_of(comfy, make())
        picture.save(REPO / "workflows" / f"{name}.jpg", quality=88)


def pictures_of(comfy: ComfyServer, made: Template) -> Image.Image:
    """What a template is about: pictures side by side, or texts below each other."""
    outputs = comfy.run(made.graph, limit=1800)
    if "images" not in outputs[made.previews[0]]:
        titles = (made.layout[node_id]["title"] for node_id in made.previews)
        texts = (outputs[node_id]["text"][0].strip() for node_id in made.previews)
        return sheet.page([(f"{ASKED} - {title}", text) for title, text in zip(titles, texts, strict=True)])
    shown = [comfy.image(outputs[node_id]["images"][0]) for node_id in made.previews]
    if len(shown) == 1:
        return shown[0]
    row = Image.new("RGB", (len(shown) * (TILE + GAP) + GAP, TILE + 2 * GAP), BACKGROUND)
    for index, one in enumerate(shown):
        row.paste(one.resize((TILE, TILE), Image.Resampling.LANCZOS), (GAP + index * (TILE + GAP), GAP))
    return row


def add_own_pictures(comfy: ComfyServer) -> str:
    """A data set as a person has one: 24 pictures of 512 pixels, captioned; the name of its folder in ``input``."""
    folder = comfy.base / "input" / "my_style"
    if not folder.exists():
        folder.mkdir(parents=True)
        for seed in range(24):
            drawn = world.draw(seed, style="neon")
            Image.fromarray(drawn.pixels).resize((512, 512), Image.Resampling.LANCZOS).save(folder / f"{seed:02}.webp")
            (folder / f"{seed:02}.txt").write_text(drawn.caption, encoding="utf-8")
    return folder.name


def graph_of(comfy: ComfyServer, name: str, width: int = 900, run: bool = False) -> Image.Image:
    """A template's graph, as the page shows it; after a run, with its pictures. One for checkpoints has other pictures
    than the demo's."""
    with open_page(comfy, 2400, 1300) as (page, _):
        page.evaluate("() => app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
        folder = add_own_pictures(comfy) if name in CHECKPOINTS else ""
        open_template(page, name)
        if folder:
            set_widgets(page, folder=folder)
            page.get_by_text(f"input/{folder}").first.wait_for()
        if run:
            run_by_click(page, comfy)
            page.get_by_text("Job completed").wait_for(state="hidden")
        page.evaluate(FIT)
        page.mouse.move(1200, 1290)  # where nothing shows a hint
        page.wait_for_timeout(3000)
        left, top, right, bottom = page.evaluate(FRAME)
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        graph = Image.open(io.BytesIO(page.screenshot(clip=clip)))  # type: ignore[arg-type]
    return graph.convert("RGB").resize((width, round(width * graph.height / graph.width)), Image.Resampling.LANCZOS)


def write_screenshots(comfy: ComfyServer) -> None:
    """The README's pictures of graphs: one that is opened, one that has run; and thumbnails that need no run."""
    graph_of(comfy, SD15, 1600).save(REPO / "docs" / "images" / "graph-before.png", optimize=True)
    for name in CHECKPOINTS:
        graph_of(comfy, name).save(REPO / "workflows" / f"{name}.jpg", quality=88)
    graph_of(comfy, DEMO, 1600, run=True).save(REPO / "docs" / "images" / "graph-after.png", optimize=True)


def texts_of(comfy: ComfyServer) -> dict[str, Any]:
    """The nodes' texts as ComfyUI's nodeDefs.json has them."""
    found = {}
    for node_id, info in sorted(comfy.get("/object_info").items()):
        if not node_id.startswith("Darkroom_"):
            continue
        inputs = {}
        for group in ("required", "optional"):
            for name, spec in info["input"].get(group, {}).items():
                inputs[name] = {"name": name, "tooltip": spec[1]["tooltip"]}
        outputs = {
            str(index): {"name": name, "tooltip": info["output_tooltips"][index]}
            for index, name in enumerate(info["output_name"])
        }
        found[node_id] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": inputs,
            "outputs": outputs,
        }
    return found


def write_locales(comfy: ComfyServer) -> None:
    """The English texts."""
    path = REPO / "locales" / "en" / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts_of(comfy), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_object_info(comfy: ComfyServer) -> None:
    """What saved graphs rely on."""
    STORED.write_text(json.dumps(signatures(comfy.get("/object_info")), indent=1) + "\n", encoding="utf-8")


WRITERS = {
    "templates": write_templates,
    "thumbnails": write_thumbnails,
    "screenshots": write_screenshots,
    "pages": write_pages,
    "blueprints": write_blueprints,
    "locales": write_locales,
    "object_info": write_object_info,
}


def main(wanted: list[str]) -> None:
    """Start a server, and write."""
    with tempfile.TemporaryDirectory() as place:
        comfy = ComfyServer(Path(place))
        # So that the page finds nothing missing. What is said of a graph that is shown depends on the model's size, but
        # one of SDXL's would take 21 GB of memory here.
        folder, shown = comfy.base / "models" / "checkpoints", {"screenshots", "thumbnails"}.intersection(wanted)
        sd15_random.write_random(folder / CHECKPOINTS[SD15], full=bool(shown))
        sdxl_random.write_random(folder / CHECKPOINTS[SDXL], full=False)
        try:
            for what in wanted:
                WRITERS[what](comfy)
        finally:
            comfy.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
