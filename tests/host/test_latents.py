"""Latents and conditioning that the graph has made are trained on, as core's own nodes give them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.host.graphs import CLIP, CONFIG, MODEL, VAE, Graph, apply_lora, demo_loader, node, picture, training
from tests.host.measure import planned_run, relative_error, run_id, runs
from tests.host.server import ComfyServer, PromptFailed
from trainer import job as jobs
from trainer.cache import Cache

pytestmark = pytest.mark.host
FOLDER = "encoded \u6f2b"


@pytest.fixture(scope="module")
def demo_folder(comfy: ComfyServer) -> str:
    """Three of the demo's pictures with their captions, below input, as core's folder loader wants them."""
    comfy.run({"data": training()["data"], "show": node("PreviewAny", source=["data", 0])})
    demo = comfy.base / "input" / "darkroom_demo"
    target = comfy.base / "input" / FOLDER
    target.mkdir(exist_ok=True)
    for picture_file in sorted(demo.glob("*.png"))[:3]:
        shutil.copy(picture_file, target)
        shutil.copy(picture_file.with_suffix(".txt"), target)
    return FOLDER


def encoded(folder: str, **config: Any) -> Graph:
    """Core's folder loader and encoder, and Train LoRA on what they give."""
    wired = {"model": MODEL, "clip": CLIP, "vae": VAE, "latents": ["made", 0], "conditioning": ["made", 1]}
    return {
        **demo_loader(),
        "folder": node("LoadImageTextDataSetFromFolder", folder=folder),
        "made": node("MakeTrainingDataset", images=["folder", 0], texts=["folder", 1], vae=VAE, clip=CLIP),
        "config": node("Darkroom_LoRATrainConfig", **{**CONFIG, "epochs": 3, **config}),
        "train": node("Darkroom_TrainLoRA", config=["config", 0], **wired),
    }


def test_what_core_encoded_is_trained_and_found_again(comfy: ComfyServer, demo_folder: str, tmp_path: Path):
    graph = {**encoded(demo_folder), "apply": apply_lora(), **picture(model=["apply", 0]), **picture("base ")}
    outputs = comfy.run(graph)
    base, tuned = (comfy.pixels(outputs[f"{name}picture"]["images"][0]) for name in ("base ", ""))
    assert not torch.equal(base, tuned)
    assert len(outputs["train"]["images"]) == 3 + 1  # one far from the data set

    run = runs(comfy) / run_id(outputs)
    job = jobs.load(run)
    cache = Cache(job.cache_dir)
    assert len(job.items) == 3
    assert {item.bucket for item in job.items} == {(128, 128)}
    # What the trainer reads is what core's nodes gave: the same as the wired VAE and CLIP give now.
    file = tmp_path / "seen.safetensors"
    lists = {"latents": ["made", 0], "conditioning": ["made", 1]}
    comfy.run({**graph, "look": node("DarkroomListProbe", path=str(file), **lists)})
    seen = load_file(file)
    for number, item in enumerate(job.items):
        assert torch.equal(cache.load("latents", item.latents)["latents"], seen[f"latents {number}"])
        hidden = cache.load("conditioning", item.conditioning[0])["hidden"]
        assert relative_error(hidden, seen[f"conditioning {number}"]) == 0

    stamp = (run / "result.json").stat().st_mtime_ns
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    again = comfy.run(graph)
    assert run_id(again) == run.name
    assert (run / "result.json").stat().st_mtime_ns == stamp
    assert load_file(run / f"{run.name}.safetensors")


def test_one_conditioning_stands_for_all(comfy: ComfyServer, demo_folder: str):
    graph = encoded(demo_folder, training_seed=5)
    graph["text"] = node("CLIPTextEncode", clip=CLIP, text="a red circle")
    graph["train"]["inputs"]["conditioning"] = ["text", 0]
    run = runs(comfy) / planned_run(comfy, graph)
    assert len({item.captions for item in jobs.load(run).items}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": None}, "latents is not wired"),
        ({"conditioning": None}, "conditioning is not wired"),
        ({"latents": None, "conditioning": None}, "there is nothing to train on"),
        ({"dataset": ["data", 0]}, "both a dataset and latents are wired"),
        ({"model": None}, "no MODEL is wired"),
        ({"clip": None}, "no CLIP is wired"),
        ({"vae": None}, "no VAE is wired"),
        ({"conditioning": ["two", 0]}, "conditioning 1 has 2 parts, expected 1"),
        ({"conditioning": ["area", 0]}, "conditioning 1 carries area, set_area_to_bounds, strength"),
        ({"conditioning": ["list", 0]}, "3 latents and 2 conditionings are wired"),
    ],
)
def test_what_cannot_be_trained_is_refused(comfy: ComfyServer, demo_folder: str, change: dict[str, Any], message: str):
    graph = encoded(demo_folder, training_seed=6)
    text = node("CLIPTextEncode", clip=CLIP, text="a red circle")
    graph |= {
        "data": training()["data"],
        "text": text,
        "two": node("ConditioningCombine", conditioning_1=["text", 0], conditioning_2=["text", 0]),
        "area": node("ConditioningSetArea", conditioning=["text", 0], width=64, height=64, x=0, y=0, strength=1.0),
        "list": node("DarkroomTwice", anything=["text", 0]),
    }
    inputs = graph["train"]["inputs"]
    for name, link in change.items():
        inputs.pop(name, None)
        if link is not None:
            inputs[name] = link
    with pytest.raises(PromptFailed) as caught:
        comfy.run(graph)
    assert message in caught.value.details["exception_message"]


def test_latents_cannot_be_mirrored(comfy: ComfyServer, demo_folder: str):
    graph = encoded(demo_folder, training_seed=7, flip=True)
    with pytest.raises(PromptFailed) as caught:
        comfy.run(graph)
    assert "flip: not with wired latents" in caught.value.details["exception_message"]
