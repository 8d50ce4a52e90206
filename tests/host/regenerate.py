"""Writes what the pack ships and a server must make: `python -m tests.host.regenerate templates|thumbnails|locales`.

templates: workflows/*.json, laid out by ComfyUI's own page; thumbnails: the pictures beside them, made by running the
templates; locales: the English texts, from the nodes themselves (the Chinese ones are written by hand).
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
from tests.host.browser import close_dialogs, open_page, open_template
from tests.host.graphs import DEMO_DATA, WIRED, Graph, node
from tests.host.server import ComfyServer
from trainer import config as configs

DEMO, CHECKPOINT = "Train, then preview (demo base)", "Train, then preview (checkpoint)"
USUAL_CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
PREVIEWS = ("13", "23", "33")
PICTURES = 12
TILE, GAP = 256, 8
SHOWN = (("Base model", None), ("With the LoRA at 0.7", 0.7), ("With the LoRA at 0.8", 0.8))
DEFAULTS: dict[str, Any] = {
    "epochs": 10, "lora_rank": 8, "learning_rate": 2e-4, "batch_size": 4, "resolution": 512, "training_seed": 42,
    "gradient_accumulation_steps": 1, "max_steps": 0, "lora_alpha": 0.0, "lora_targets": "linear",
    "lr_scheduler": "cosine", "warmup_steps": 100, "caption_dropout": 0.05, "noise_offset": 0.0, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "mixed_precision": "fp16", "gradient_checkpointing": True, "validation_images": 0,
    "validation_steps": 100, "save_steps": 100, "sample_every": 100, "sample_inference_steps": 20,
    "sample_guidance": 7.0, "sample_strength": 0.8, "log_interval": 10, "sample_prompts": "",
}  # fmt: skip


def for_demo() -> dict[str, Any]:
    """The demo's own settings, as LoRA Train Config has them; its length in epochs, which people raise."""
    plain = configs.load(REPO / "trainer" / "demo" / "demo.yaml").to_plain()
    plain["epochs"] = round(plain["max_steps"] * plain["batch_size"] / PICTURES)
    plain["training_seed"] = plain["seed"]
    plain["sample_prompts"] = "\n".join(plain["sample_prompts"])
    plain["max_steps"] = plain["lora_alpha"] = None
    return {name: default if plain[name] is None else plain[name] for name, default in DEFAULTS.items()}


NOTES = {
    DEMO: "## Train a LoRA, and see it work, in one run\n\n"
    "Press **Run** once. Twelve drawn pictures in a neon style teach the small demo model that style (about two "
    "minutes on a laptop's processor); then the same prompt is drawn by the base model, and with the LoRA at 0.7 and "
    "0.8.\n\nRun again: the finished LoRA comes back at once. Change a prompt or a strength: only the pictures are "
    "drawn anew. Raise *epochs*: the training goes on. **Cancel** saves; the next run goes on from there.",
    CHECKPOINT: "## Train a LoRA on your own pictures\n\n"
    "1. **Load Checkpoint**: a Stable Diffusion 1.5 model.\n"
    "2. **Load Dataset**: a folder of 50 to 200 pictures of one theme below ComfyUI's *input* folder, with captions "
    "beside them (Auto Caption writes what is missing). Or type the folder's path.\n"
    "3. **Run**. When the training ends, the same prompt is drawn by the base model, and with the LoRA at 0.7 and "
    "0.8; the file lies in the list of every LoRA loader.\n\n"
    "Too weak: more *epochs*, or *lora_rank* 16. Stiff or distorted: fewer epochs, a lower *learning_rate*. Change one "
    "thing at a time.",
}


def template(name: str) -> tuple[Graph, dict[str, dict[str, Any]]]:
    """A template in API form, and its layout: id -> position, size, title."""
    demo = name == DEMO
    prompt = "a big pink heart on a gray background" if demo else "a photo of a cat sitting on a wooden table"
    size, steps, guidance = (128, 20, 4.0) if demo else (512, 20, 7.0)
    loader = node("Darkroom_LoadDemoBase") if demo else node(
        "CheckpointLoaderSimple", ckpt_name=USUAL_CHECKPOINT
    )  # fmt: skip
    model, clip, vae = (["1", slot] for slot in range(3))
    graph: Graph = {
        "1": loader,
        "2": node("Darkroom_LoadDataset", folder=DEMO_DATA, path="", trigger_word="", repeats=1),
        "3": node("Darkroom_LoRATrainConfig", **(for_demo() if demo else DEFAULTS)),
        "4": node("Darkroom_TrainLoRA", dataset=["2", 0], config=["3", 0], model=model, clip=clip, vae=vae),
        "5": node("Darkroom_SaveLoRA", lora=["4", 0], samples=["4", 2], filename="neon" if demo else "my_style_lora"),
        "6": node("CLIPTextEncode", clip=clip, text=prompt),
        "7": node("CLIPTextEncode", clip=clip, text="" if demo else "blurry, low quality"),
        "8": node("EmptyLatentImage", width=size, height=size, batch_size=1),
    }
    layout: dict[str, dict[str, Any]] = {
        "1": {"pos": [0, 0], "size": [320, 100]},
        "2": {"pos": [0, 170], "size": [320, 240]},
        "3": {"pos": [360, 0], "size": [320, 780]},
        "4": {"pos": [720, 0], "size": [320, 520]},
        "5": {"pos": [720, 590], "size": [320, 160]},
        "6": {"pos": [1080, 0], "size": [320, 140], "title": "Prompt"},
        "7": {"pos": [1080, 200], "size": [320, 110], "title": "Negative prompt"},
        "8": {"pos": [1080, 370], "size": [320, 110]},
    }
    for row, (title, strength) in enumerate(SHOWN):
        apply, sample, decode, show = (str(10 * (row + 1) + n) for n in range(4))
        patched = model
        if strength is not None:
            graph[apply] = node(
                "Darkroom_ApplyLoRA", model=model, lora=["4", 0], lora_name=WIRED, strength_model=strength,
                strength_clip=strength,
            )  # fmt: skip
            layout[apply] = {"pos": [1080, 340 + 200 * row], "size": [320, 140], "title": f"Apply LoRA at {strength}"}
            patched = [apply, 0]
        graph[sample] = node(
            "KSampler", model=patched, positive=["6", 0], negative=["7", 0], latent_image=["8", 0], seed=7, steps=steps,
            cfg=guidance, sampler_name="euler", scheduler="normal", denoise=1.0,
        )  # fmt: skip
        graph[decode] = node("VAEDecode", samples=[sample, 0], vae=vae)
        graph[show] = node("PreviewImage", images=[decode, 0])
        top = 340 * row
        layout[sample] = {"pos": [1440, top], "size": [290, 270]}
        layout[decode] = {"pos": [1770, top], "size": [180, 60]}
        layout[show] = {"pos": [1990, top], "size": [290, 300], "title": title}
    return graph, layout


ARRANGE = """
async ([graph, layout, note, name]) => {
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
  text.pos = [0, 470];
  text.setSize([320, 310]);
  text.title = "How to use this";
  text.widgets[0].value = note;
  const saved = all.serialize();
  saved.extra = {};
  // Nothing of this machine's language and versions.
  const dropped = ["localized_name", "ver", "cnr_id", "aux_id"];
  return JSON.parse(JSON.stringify(saved, (key, value) => dropped.includes(key) ? undefined : value));
}
"""


FRAME = """
() => {
  const { offset: [dx, dy], scale } = window.app.canvas.ds;
  const nodes = window.app.graph.nodes;
  const low = i => Math.min(...nodes.map(n => n.pos[i])), high = i => Math.max(...nodes.map(n => n.pos[i] + n.size[i]));
  const left = (low(0) - 20 + dx) * scale, top = (low(1) - 50 + dy) * scale;
  return [left, top, (high(0) + 20 + dx) * scale - left, (high(1) + 20 + dy) * scale - top];
}
"""


def write_templates(comfy: ComfyServer) -> None:
    """Let the page lay out the graphs and write them as a user would save them."""
    with open_page(comfy) as (page, _):
        close_dialogs(page)
        for name in (DEMO, CHECKPOINT):
            graph, layout = template(name)
            saved = page.evaluate(ARRANGE, [graph, layout, NOTES[name], name])
            text = json.dumps(saved, indent=1, ensure_ascii=False)
            (REPO / "workflows" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write_thumbnails(comfy: ComfyServer) -> None:
    """Run the demo's template for its three pictures; show the other template's graph."""
    outputs = comfy.run(template(DEMO)[0], limit=1800)
    pictures = [comfy.image(outputs[node_id]["images"][0]) for node_id in PREVIEWS]
    sheet = Image.new("RGB", (3 * TILE + 4 * GAP, TILE + 2 * GAP), (24, 24, 27))
    for index, shown in enumerate(pictures):
        sheet.paste(shown.resize((TILE, TILE), Image.Resampling.LANCZOS), (GAP + index * (TILE + GAP), GAP))
    sheet.save(REPO / "workflows" / f"{DEMO}.jpg", quality=90)
    with open_page(comfy) as (page, _):
        open_template(page, CHECKPOINT)
        page.keyboard.press("Control+b")
        page.mouse.move(5, 5)
        page.wait_for_timeout(500)
        left, top, width, height = page.evaluate(FRAME)
        clip = {"x": left, "y": top, "width": width, "height": height}
        graph = Image.open(io.BytesIO(page.screenshot(clip=clip)))  # type: ignore[arg-type]
    graph.convert("RGB").resize((900, round(900 * graph.height / graph.width)), Image.Resampling.LANCZOS).save(
        REPO / "workflows" / f"{CHECKPOINT}.jpg", quality=85
    )


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


def main(what: str) -> None:
    """Start a server, and write."""
    with tempfile.TemporaryDirectory() as folder:
        comfy = ComfyServer(Path(folder))
        (comfy.base / "models" / "checkpoints" / USUAL_CHECKPOINT).touch()  # so that the page finds nothing missing
        try:
            {"templates": write_templates, "thumbnails": write_thumbnails, "locales": write_locales}[what](comfy)
        finally:
            comfy.stop()


if __name__ == "__main__":
    main(sys.argv[1])
