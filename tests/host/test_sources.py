"""Where MODEL, CLIP and VAE come from: merges, other files, subgraphs; and clients without a page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.host.checkpoints import SD15, add_random_sd15
from tests.host.graphs import MODEL, VAE, Graph, apply_lora, demo_loader, node, picture, training
from tests.host.measure import planned_run, run_id, runs
from tests.host.server import ComfyServer
from trainer import job as jobs

pytestmark = pytest.mark.host
SHORT: dict[str, Any] = {"epochs": 1, "training_seed": 21}
LONG = "a name of two hundred characters "
HARD = ("p\u00fcnkt \u6f2b\u753b \U0001f3a8", (LONG * 8)[:199] + "!")


@pytest.fixture(scope="module")
def first(comfy: ComfyServer) -> dict[str, Any]:
    return comfy.run({**demo_loader(), **training(**SHORT)})


def inside(graph: Graph, number: str) -> Graph:
    """The graph as the page sends a subgraph: its nodes' ids have the subgraph's in front."""

    def renamed(value: Any) -> Any:
        return [f"{number}:{value[0]}", value[1]] if isinstance(value, list) and value[0] in graph else value

    return {
        f"{number}:{name}": {**one, "inputs": {key: renamed(value) for key, value in one["inputs"].items()}}
        for name, one in graph.items()
    }


def test_within_a_subgraph_it_is_the_same_run(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), **training(**SHORT)}
    outputs = comfy.run(inside(graph, "12:3"))
    assert run_id({"train": outputs["12:3:train"]}) == run_id(first)
    outputs = comfy.run(inside({**demo_loader(), **training(epochs=1, training_seed=22)}, "12"))
    assert outputs["12:train"]["images"]
    assert outputs["12:data"]["text"][0].startswith("12 images")


@pytest.mark.long
def test_a_merge_is_trained_as_it_is(comfy: ComfyServer, first: dict[str, Any]):
    def merged(ratio: float) -> Graph:
        graph = {**demo_loader(), "lora": apply_lora(1.0), **training(**SHORT)}
        graph["merge"] = node("ModelMergeSimple", model1=MODEL, model2=["lora", 0], ratio=ratio)
        again = training(**SHORT, model=["merge", 0])["train"]
        return {**graph, "again": again}

    def base(ratio: float) -> jobs.Job:
        outputs = comfy.run(merged(ratio))
        return jobs.load(runs(comfy) / run_id({"train": outputs["again"]}))

    one, other = base(0.5), base(0.25)
    assert one.base.file.parent.name == other.base.file.parent.name == "bases"
    assert len({run_id(first), one.run_id, other.run_id}) == 3


def test_another_vae_trains_anew(comfy: ComfyServer, first: dict[str, Any]):
    add_random_sd15(comfy.base)
    graph = {**demo_loader(), "other": node("CheckpointLoaderSimple", ckpt_name=SD15)}
    assert planned_run(comfy, {**graph, **training(**SHORT, vae=["other", 2])}) != run_id(first)
    assert planned_run(comfy, {**graph, **training(**SHORT, vae=VAE)}) == run_id(first)


@pytest.mark.parametrize("name", HARD, ids=["signs", "long"])
def test_names_of_folders_and_files(comfy: ComfyServer, first: dict[str, Any], name: str):
    folder = comfy.base / "input" / name
    shutil.copytree(comfy.base / "input" / "darkroom_demo", folder)
    picture_, *_ = sorted(folder.glob("*.png"))
    for suffix in (".png", ".txt"):
        picture_.with_suffix(suffix).rename(folder / f"{name}{suffix}")
    graph = {**demo_loader(), **training(**SHORT, folder=name)}
    graph["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename=f"{name}/{name}")
    graph |= {"apply": apply_lora(), **picture(model=["apply", 0])}
    outputs = comfy.run(graph)
    assert outputs["picture"]["images"]
    saved = comfy.base / "models" / "loras" / name / f"{name}.safetensors"
    assert saved.is_file()
    listed = str(Path(name) / saved.name)
    comfy.run({**demo_loader(), "apply": apply_lora(name=listed), **picture(model=["apply", 0])})


def test_a_client_without_a_page_that_asks_for_a_part(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), **training(epochs=1, training_seed=23), **picture()}
    entry = comfy.wait(comfy.queue(graph, partial_execution_targets=["train"]))
    assert entry["status"]["status_str"] == "success"
    assert "picture" not in entry["outputs"]
    run = run_id(entry["outputs"])
    assert re.fullmatch(r"[0-9a-f]{12}", run)
    assert run_id(comfy.run(graph)) == run
