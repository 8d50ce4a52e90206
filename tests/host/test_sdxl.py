"""SDXL in the graph: a checkpoint of the stock loader that predicts v with zero terminal SNR, trained and applied."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.host.checkpoints import SDXL, add_random_sdxl
from tests.host.graphs import CLIP, MODEL, Graph, apply_lora, checkpoint_loader, demo_loader, node, picture, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, PromptFailed
from tests.host.test_dataset import draw
from trainer import job as jobs

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("sdxl_alone")]
# A trigger word of its own: a node that another module has run already would tell nothing there.
SHORT: dict[str, Any] = {
    "folder": "three for an xl",  # a caption takes its text encoders seconds
    "trigger_word": "xl",
    "resolution": 64,
    "epochs": 1,
    "batch_size": 2,
    "gradient_checkpointing": False,
}
SMALL: dict[str, Any] = {"size": 64, "steps": 2}


def whole_graph() -> Graph:
    graph = {**checkpoint_loader(SDXL), **training(**SHORT)}
    graph["apply"] = apply_lora(0.8)
    graph["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename="of an xl")
    return {**graph, **picture("base ", **SMALL), **picture("lora ", model=["apply", 0], **SMALL)}


@pytest.fixture(scope="module")
def outputs(comfy: ComfyServer) -> dict[str, Any]:
    add_random_sdxl(comfy.base)
    for number in range(3):
        picture = comfy.base / "input" / SHORT["folder"] / f"{number}.png"
        draw(picture, 64, 64, seed=number)
        picture.with_suffix(".txt").write_text(f"drawing number {number}", "utf-8")
    return comfy.run(whole_graph())


def test_the_graph_runs_to_its_end(comfy: ComfyServer, outputs: dict[str, Any]):
    base, lora = (comfy.pixels(outputs[f"{name} picture"]["images"][0]) for name in ("base", "lora"))
    assert base.std() > 0.02
    assert not torch.equal(base, lora)
    job = jobs.load(runs(comfy) / run_id(outputs))
    assert (job.base.family, job.base.prediction, job.base.zero_terminal_snr) == ("sdxl", "v_prediction", True)
    assert job.base.file.name == SDXL


def test_cores_loader_takes_the_saved_file(comfy: ComfyServer, outputs: dict[str, Any]):
    at = {"strength_model": 0.8, "strength_clip": 0.8}
    loader = node("LoraLoader", model=MODEL, clip=CLIP, lora_name="of an xl.safetensors", **at)
    drawn = comfy.run({**checkpoint_loader(SDXL), "core": loader, **picture(model=["core", 0], **SMALL)})
    theirs = comfy.pixels(drawn["picture"]["images"][0])
    assert torch.equal(theirs, comfy.pixels(outputs["lora picture"]["images"][0]))


def test_text_encoders_of_another_model_are_refused(comfy: ComfyServer, outputs: dict[str, Any]):
    """Also when that CLIP's output for these captions is cached already, from a training of its own model."""
    own = {**demo_loader(), **training(**SHORT)}
    comfy.run(own)
    (demo,) = demo_loader().values()
    graph = {**checkpoint_loader(SDXL), "other": demo, **training(clip=["other", 1], **SHORT)}
    with pytest.raises(PromptFailed, match="96 wide; this model takes one that is 2048 wide, and a pooled output"):
        comfy.run(graph)
