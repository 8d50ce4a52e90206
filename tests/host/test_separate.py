"""MODEL, CLIP and VAE of files of their own, by core's loaders for these: the same as of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.host.checkpoints import SD15, SDXL, Parts, add_random_sd15, add_random_sdxl, split
from tests.host.graphs import CLIP, Graph, Link, apply_lora, checkpoint_loader, demo_loader, node, picture, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, PromptFailed
from trainer import job as jobs

pytestmark = pytest.mark.host
SHORT: dict[str, Any] = {"trigger_word": "parts", "resolution": 64, "epochs": 1, "batch_size": 6, "training_seed": 31}
SMALL: dict[str, Any] = {"size": 64, "steps": 2}
WIRES: dict[str, Link] = {"model": ["unet", 0], "clip": ["clip", 0], "vae": ["vae", 0]}


class Kind(NamedTuple):
    """A family, and how its parts are loaded."""

    checkpoint: str
    add: Callable[[Path], Path]
    texts: dict[str, str]
    described: bool
    """Whether the bare UNet tells its config: a small SD1.5 must, a small SDXL is known by its shapes."""


KINDS = {
    "sd15": Kind(SD15, add_random_sd15, {"clip_l": "cond_stage_model.transformer."}, True),
    "sdxl": Kind(
        SDXL,
        add_random_sdxl,
        {"clip_l": "conditioner.embedders.0.transformer.", "clip_g": "conditioner.embedders.1.model."},
        False,
    ),
}


class Trained(NamedTuple):
    """A family trained on separate files, and what was drawn with these."""

    kind: Kind
    parts: Parts
    outputs: dict[str, Any]


def loaders(parts: Parts, weight_dtype: str = "default", *, turned: bool = False) -> Graph:
    """Core's loaders of a UNet, of one or two text encoders, and of a VAE; the text encoders in either order."""
    texts = parts.texts[::-1] if turned else parts.texts
    if len(texts) == 1:
        clip = node("CLIPLoader", clip_name=texts[0], type="stable_diffusion")
    else:
        clip = node("DualCLIPLoader", clip_name1=texts[0], clip_name2=texts[1], type="sdxl")
    unet = node("UNETLoader", unet_name=parts.unet, weight_dtype=weight_dtype)
    return {"unet": unet, "clip": clip, "vae": node("VAELoader", vae_name=parts.vae)}


def train_and_draw(graph: Graph, wires: dict[str, Link]) -> Graph:
    """Train, and draw with the base, at strength 0 and at 0.8."""
    graph = {**graph, **training(**wires, **SHORT), **picture("base ", **wires, **SMALL)}
    for name, strength in (("zero", 0.0), ("usual", 0.8)):
        graph[name] = apply_lora(strength, model=wires["model"])
        graph |= picture(f"{name} ", **{**wires, "model": [name, 0]}, **SMALL)
    return graph


def drawn(comfy: ComfyServer, outputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: comfy.pixels(outputs[f"{name} picture"]["images"][0]) for name in ("base", "zero", "usual")}


@pytest.fixture(scope="module", params=["sd15", pytest.param("sdxl", marks=pytest.mark.long)])
def separate(request: pytest.FixtureRequest, comfy: ComfyServer) -> Trained:
    if request.param == "sdxl":
        request.getfixturevalue("sdxl_alone")
    kind = KINDS[request.param]
    parts = split(kind.add(comfy.base), comfy.base, kind.texts, described=kind.described)
    return Trained(kind, parts, comfy.run(train_and_draw(loaders(parts), WIRES)))


def test_it_trains_and_strength_0_is_the_base(comfy: ComfyServer, separate: Trained):
    pictures = drawn(comfy, separate.outputs)
    assert pictures["base"].std() > 0.02
    assert torch.equal(pictures["base"], pictures["zero"]), "strength 0 must be the base, bit for bit"
    assert not torch.equal(pictures["base"], pictures["usual"])


def test_it_is_what_the_whole_checkpoint_gives(comfy: ComfyServer, separate: Trained):
    """Not the same run, for it is another file; but the same encodings, LoRA and pictures, to the bit."""
    loader = checkpoint_loader(separate.kind.checkpoint)
    wires: dict[str, Link] = {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2]}
    whole = comfy.run(train_and_draw(loader, wires))
    ours, theirs = (runs(comfy) / run_id(outputs) for outputs in (separate.outputs, whole))
    ours_job, theirs_job = jobs.load(ours), jobs.load(theirs)
    assert ours_job.base.file == comfy.base / "models" / "diffusion_models" / separate.parts.unet
    assert theirs_job.base.file == comfy.base / "models" / "checkpoints" / separate.kind.checkpoint
    elsewhere = {"file": theirs_job.base.file, "content": theirs_job.base.content}
    assert replace(ours_job.base, **elsewhere) == theirs_job.base
    assert set(ours_job.cache_entries()) == set(theirs_job.cache_entries())
    one, other = load_file(ours / f"{ours.name}.safetensors"), load_file(theirs / f"{theirs.name}.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    pictures, of_whole = drawn(comfy, separate.outputs), drawn(comfy, whole)
    assert all(torch.equal(pictures[name], of_whole[name]) for name in pictures)


def test_in_fp8_it_is_the_same_run(comfy: ComfyServer, separate: Trained):
    """What is trained is the file; what is drawn with is fp8. The order of two text encoders is nothing either."""
    run = runs(comfy) / run_id(separate.outputs)
    stamp = (run / "result.json").stat().st_mtime_ns
    outputs = comfy.run(train_and_draw(loaders(separate.parts, "fp8_e4m3fn", turned=True), WIRES))
    assert run_id(outputs) == run.name
    assert (run / "result.json").stat().st_mtime_ns == stamp
    assert "computes in fp8" in outputs["train"]["text"][0]
    pictures = drawn(comfy, outputs)
    assert torch.equal(pictures["base"], pictures["zero"])
    assert not torch.equal(pictures["base"], pictures["usual"])
    assert not torch.equal(pictures["base"], drawn(comfy, separate.outputs)["base"]), "fp8 costs something"


def test_a_clip_of_another_model_is_refused_by_name(comfy: ComfyServer, separate: Trained):
    """Also when its output for these captions is cached already, from a training of its own model."""
    comfy.run({**demo_loader(), **training(**SHORT)})
    wires = {**WIRES, "clip": CLIP}
    width = 768 if len(separate.parts.texts) == 1 else 2048
    with pytest.raises(PromptFailed, match=f"its output is 96 wide; this model takes one that is {width} wide"):
        comfy.run({**demo_loader(), **loaders(separate.parts), **training(**wires, **SHORT)})
