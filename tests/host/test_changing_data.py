"""A data set on which somebody works while ComfyUI encodes it: an error by name, or what the scan saw is trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.host.accidents import starts, told
from tests.host.graphs import VAE, Graph, demo_loader, node, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, PromptFailed
from trainer import checkpoint
from trainer import job as jobs
from trainer.cache import Cache
from trainer.events import RunFinished

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def demo(comfy: ComfyServer) -> Path:
    """The demo's pictures, which the others are copies of."""
    comfy.run({"data": training()["data"], "show": node("PreviewAny", source=["data", 0])})
    return comfy.base / "input" / "darkroom_demo"


@pytest.fixture
def folder(comfy: ComfyServer, demo: Path, request: pytest.FixtureRequest) -> Path:
    """A data set of a test's own: its pictures differ from all others, so that none is in the cache yet."""
    folder = comfy.base / "input" / f"ch\u00e4nging {request.node.name}"
    shutil.copytree(demo, folder)
    for number, file in enumerate(pictures(folder)):
        repaint(file, file, (number, len(request.node.name), sum(request.node.name.encode()) % 256))
    return folder


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def repaint(source: Path, target: Path, colour: tuple[int, int, int], size: tuple[int, int] | None = None) -> None:
    """A picture with a corner of another colour."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    picture.paste(colour, (0, 0, 9, 9))
    (picture.resize(size) if size else picture).save(target)


def graph(folder: Path, *moves: tuple[Path | str, Path], **config: Any) -> Graph:
    """Train on the folder; while the first picture is encoded, files are moved onto others, or deleted."""
    pairs = json.dumps([[str(new), str(old)] for new, old in moves])
    meddler = node("DarkroomMeddler", vae=VAE, moves=pairs)
    config = {"epochs": 1, "training_seed": 120, **config}
    return {**demo_loader(), "meddler": meddler, **training(vae=["meddler", 0], folder=folder.name, **config)}


@pytest.mark.long
def test_a_picture_that_is_replaced_is_an_error_by_name(comfy: ComfyServer, folder: Path, tmp_path: Path):
    old = pictures(folder)[-1]  # the first few are decoded by then, as the scan saw them
    shutil.copy(old, tmp_path / "old.png")
    repaint(old, tmp_path / "new.png", (255, 0, 0))
    with pytest.raises(PromptFailed) as caught:
        comfy.run(graph(folder, (tmp_path / "new.png", old)))
    assert caught.value.details["node_type"] == "Darkroom_TrainLoRA"
    message = caught.value.details["exception_message"]
    assert f"{old.name}: was changed after the dataset was scanned" in message
    assert "start the run again" in message
    changed = comfy.run(graph(folder))
    assert "12 images" in changed["data"]["text"][0]
    shutil.copy(tmp_path / "old.png", old)
    before = comfy.run(graph(folder))
    assert run_id(before) != run_id(changed)
    # Neither picture's latents are kept under the other's name.
    latents = []
    for outputs in (before, changed):
        job = jobs.load(runs(comfy) / run_id(outputs))
        (item,) = [item for item in job.items if Path(item.path).name == old.name]
        latents.append(Cache(job.cache_dir).load("latents", item.latents)["latents"])
    assert not torch.equal(latents[0], latents[1])


def test_a_picture_of_another_size_and_one_that_is_gone(comfy: ComfyServer, folder: Path, tmp_path: Path):
    other, last = pictures(folder)[5], pictures(folder)[-1]
    repaint(other, tmp_path / "new.png", (0, 255, 0), (192, 128))
    with pytest.raises(PromptFailed, match=f"{other.name}: was 128x128 pixels .*, now it is 192x128"):
        comfy.run(graph(folder, (tmp_path / "new.png", other)))
    with pytest.raises(PromptFailed, match=f"{last.name}: could be read when the dataset was scanned"):
        comfy.run(graph(folder, ("", last)))
    outputs = comfy.run(graph(folder))
    assert "11 images" in outputs["data"]["text"][0]
    assert len(jobs.load(runs(comfy) / run_id(outputs)).items) == 11


@pytest.mark.long
def test_a_caption_and_a_picture_more_are_for_the_next_time(comfy: ComfyServer, folder: Path, tmp_path: Path):
    first, last = pictures(folder)[0], pictures(folder)[-1]
    (tmp_path / "caption").write_text("a small green fish", encoding="utf-8")
    repaint(first, tmp_path / "more.png", (0, 0, 255))
    moves = (tmp_path / "caption", last.with_suffix(".txt")), (tmp_path / "more.png", folder / "more.png")
    seen, later = (run_id(comfy.run(graph(folder, *m))) for m in (moves, ()))
    assert seen != later
    trained = [{i.captions[0] for i in jobs.load(runs(comfy) / run).items} for run in (seen, later)]
    assert "a small green fish" not in trained[0]
    assert "a small green fish" in trained[1]
    assert [len(jobs.load(runs(comfy) / run).items) for run in (seen, later)] == [12, 13]


def test_a_run_with_checkpoints_stays_whole_and_goes_on(comfy: ComfyServer, folder: Path, tmp_path: Path):
    """Its latents have left the cache, so that they are encoded anew when it is to be extended."""
    run = runs(comfy) / run_id(comfy.run(graph(folder)))
    job = jobs.load(run)
    for item in job.items:
        (latents,) = job.cache_dir.rglob(f"{item.latents}.safetensors")
        latents.unlink()
    last = pictures(folder)[-1]
    shutil.copy(last, tmp_path / "old.png")
    repaint(last, tmp_path / "new.png", (255, 0, 0))
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "host.lock"}
    saved = checkpoint.latest(run)
    with pytest.raises(PromptFailed, match="was changed after the dataset was scanned"):
        comfy.run(graph(folder, (tmp_path / "new.png", last), epochs=3))
    assert {path: path.read_bytes() for path in whole} == whole
    assert checkpoint.latest(run) == saved
    shutil.move(tmp_path / "old.png", last)
    assert run_id(comfy.run(graph(folder, epochs=3))) == run.name
    assert starts(run) == [0, saved]
    assert isinstance(told(run)[-1], RunFinished)
    assert load_file(run / f"{run.name}.safetensors")
