"""SDXL under ComfyUI's memory flags: the same run, the same LoRA, trained once, and strength 0 is the base."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.host.accidents import starts
from tests.host.checkpoints import SDXL, add_random_sdxl
from tests.host.graphs import Graph, apply_lora, checkpoint_loader, node, picture, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.usefixtures("sdxl_alone")]
SHORT: dict[str, Any] = {"trigger_word": "flags", "resolution": 64, "epochs": 1, "batch_size": 6}
SMALL: dict[str, Any] = {"size": 64, "steps": 2}
LORA = "of flags.safetensors"


class Way(NamedTuple):
    """How a ComfyUI is started.

    Args:
        flags: of main.py.
        state: what a flag that excludes --cpu would make of ComfyUI's memory management; see as_on_a_card.py.
        free: GB that the card then has free.
    """

    flags: tuple[str, ...] = ()
    state: str = ""
    free: float = 0.0


WAYS = {
    "plain": Way(),
    "disable-smart-memory, cache-none": Way(("--disable-smart-memory", "--cache-none")),
    "lowvram": Way(state="LOW_VRAM", free=1.4),
    "highvram": Way(state="HIGH_VRAM", free=16.0),
}


class Ran(NamedTuple):
    """What a ComfyUI gave that was started in one of these ways."""

    way: Way
    run: str
    lora: dict[str, torch.Tensor]
    pictures: dict[str, torch.Tensor]
    starts: list[int]
    said: str
    log: str


def graph() -> Graph:
    """Train, save, and draw with the base, at strength 0, at 0.8, and from the saved file by core's loader."""
    whole = {**checkpoint_loader(SDXL), **training(**SHORT), **picture("base ", **SMALL)}
    whole["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename=Path(LORA).stem)
    for name, strength in (("zero", 0.0), ("usual", 0.8)):
        whole[name] = apply_lora(strength)
        whole |= picture(f"{name} ", model=[name, 0], **SMALL)
    return whole


def by_core() -> Graph:
    """The saved file, by core's loader."""
    loader = node("LoraLoaderModelOnly", model=["base", 0], lora_name=LORA, strength_model=0.8)
    return {**checkpoint_loader(SDXL), "core": loader, **picture("core ", model=["core", 0], **SMALL)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("checkpoint")
    (base / "models" / "checkpoints").mkdir(parents=True)
    return add_random_sdxl(base)


@pytest.fixture(scope="module")
def ran(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every way's, in a server of its own, one after the other: two would be too much for a small machine."""
    return {name: run(way, checkpoint, tmp_path_factory.mktemp("flags")) for name, way in WAYS.items()}


def run(way: Way, checkpoint: Path, root: Path) -> Ran:
    """Queue the graph twice, and a graph with the file that it saved in between."""
    server = ComfyServer(root, way.flags, start=False)
    os.link(checkpoint, server.base / "models" / "checkpoints" / SDXL)
    with pytest.MonkeyPatch.context() as environment:
        if way.state:
            shutil.copy(Path(__file__).with_name("as_on_a_card.py"), server.base / "custom_nodes")
            environment.setenv("DARKROOM_VRAM_STATE", way.state)
            environment.setenv("DARKROOM_FREE_GB", str(way.free))
        server.start()
    try:
        outputs = server.run(graph())
        outputs |= server.run(by_core())
        again = server.run(graph())
        assert run_id(again) == run_id(outputs)
        pictures = {
            name: server.pixels(outputs[f"{name} picture"]["images"][0]) for name in ("base", "zero", "usual", "core")
        }
        lora = load_file(server.base / "models" / "loras" / LORA)
        folder = runs(server) / run_id(outputs)
        return Ran(way, run_id(outputs), lora, pictures, starts(folder), outputs["train"]["text"][0], server.log())
    finally:
        server.stop()


@pytest.mark.parametrize("name", list(WAYS))
def test_strength_0_is_the_base_and_an_unchanged_graph_trains_once(ran: dict[str, Ran], name: str):
    shown = ran[name].pictures
    assert shown["base"].std() > 0.02
    assert torch.equal(shown["base"], shown["zero"])
    assert not torch.equal(shown["base"], shown["usual"])
    assert torch.equal(shown["usual"], shown["core"])
    assert ran[name].starts == [0]


@pytest.mark.parametrize("name", list(WAYS)[1:])
def test_it_is_the_run_and_the_lora_of_a_comfyui_without_flags(ran: dict[str, Ran], name: str):
    assert ran[name].run == ran["plain"].run
    ours, theirs = ran[name].lora, ran["plain"].lora
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    drawn, plain = ran[name].pictures, ran["plain"].pictures
    assert torch.allclose(drawn["base"], plain["base"], atol=1.5 / 255)
    assert torch.allclose(drawn["usual"], plain["usual"], atol=1.5 / 255)


def test_little_memory_is_told(ran: dict[str, Ran]):
    """And a model that does not fit was there in part while it was drawn with."""
    assert "only 1.4 GB are free" in ran["lowvram"].said
    assert "loaded partially" in ran["lowvram"].log
    for name in ("plain", "highvram"):
        assert "are free" not in ran[name].said
