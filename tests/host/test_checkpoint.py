"""A checkpoint through the stock loader: trained, saved, and its LoRA in core's loader and in diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.checkpoints import SD15, add_random_sd15
from tests.host.graphs import CLIP, MODEL, Graph, apply_lora, checkpoint_loader, node, picture, training
from tests.host.measure import relative_error, run_id, runs
from tests.host.server import ComfyServer
from trainer import families
from trainer import job as jobs

pytestmark = pytest.mark.host
SHORT: dict[str, Any] = {"resolution": 64, "epochs": 1, "lora_targets": "conv", "lora_alpha": 6.0, "batch_size": 6}
SMALL: dict[str, Any] = {"size": 64, "steps": 2}


def whole_graph() -> Graph:
    """Train, save, and draw with the base and with the LoRA, by our nodes and by core's."""
    graph = {**checkpoint_loader(SD15), **training(**SHORT)}
    graph["apply"] = apply_lora(0.8)
    graph["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename="of a checkpoint")
    return {**graph, **picture("base ", **SMALL), **picture("lora ", model=["apply", 0], **SMALL)}


@pytest.fixture(scope="module")
def outputs(comfy: ComfyServer) -> dict[str, Any]:
    add_random_sd15(comfy.base)
    return comfy.run(whole_graph())


@pytest.fixture
def saved(comfy: ComfyServer, outputs: dict[str, Any]) -> Path:
    return comfy.base / "models" / "loras" / "of a checkpoint.safetensors"


def test_the_graph_runs_to_its_end(comfy: ComfyServer, outputs: dict[str, Any], saved: Path):
    base, lora = (comfy.pixels(outputs[f"{name} picture"]["images"][0]) for name in ("base", "lora"))
    assert base.std() > 0.02
    assert not torch.equal(base, lora)
    assert outputs["train"]["text"][0].startswith("2 steps")
    assert saved.with_suffix(".preview.png").is_file()
    job = jobs.load(runs(comfy) / run_id(outputs))
    assert job.base.file.name == SD15
    assert job.base.family == "sd15"


def test_cores_loader_takes_the_saved_file(comfy: ComfyServer, outputs: dict[str, Any], saved: Path):
    at = {"strength_model": 0.8, "strength_clip": 0.8}
    loader = node("LoraLoader", model=MODEL, clip=CLIP, lora_name=saved.name, **at)
    drawn = comfy.run({**checkpoint_loader(SD15), "core": loader, **picture(model=["core", 0], **SMALL)})
    theirs = comfy.pixels(drawn["picture"]["images"][0])
    assert torch.equal(theirs, comfy.pixels(outputs["lora picture"]["images"][0]))


def test_diffusers_takes_the_saved_file(comfy: ComfyServer, outputs: dict[str, Any], saved: Path):
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Loader

    graph = {**checkpoint_loader(SD15), "apply": apply_lora(1.0, name=saved.name)}
    seen = comfy.probe("unet", graph, {"model": ["apply", 0]}, seed=4, size=8, context=768).tensors
    unet: Any = families.get("sd15").load_model(add_random_sd15(comfy.base), torch.float32)

    def predict() -> torch.Tensor:
        with torch.no_grad():
            return unet(seen["noisy"], seen["timestep"], encoder_hidden_states=seen["hidden"]).sample

    before = predict()
    converted: Any = Loader.lora_state_dict(str(saved), unet_config=unet.config)
    Loader.load_lora_into_unet(converted[0], converted[1], unet)
    assert relative_error(predict(), seen["out"]) < 1e-5
    assert relative_error(before, seen["out"]) > 1e-4, "the LoRA should change the prediction"


def test_a_base_file_with_the_same_content_is_the_same_run(comfy: ComfyServer, outputs: dict[str, Any]):
    graph = {**checkpoint_loader(SD15), **training(base_file=SD15, **SHORT)}
    assert run_id(comfy.run(graph)) == run_id(outputs)
