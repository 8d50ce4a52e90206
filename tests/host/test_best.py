"""The best checkpoint in the graph of the real server: handed on, loaded by its name, told by the routes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.host.graphs import Graph, demo_loader, node, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer
from trainer import checkpoint, validation

pytestmark = pytest.mark.host
OVERFITS: dict[str, Any] = {
    # Few pictures beside large steps, so that validations cost little and are not put further apart.
    "validation_images": 2, "validation_steps": 70, "gradient_accumulation_steps": 2, "save_steps": 70,
    "early_stopping_patience": 1, "training_seed": 5, "learning_rate": 1e-2, "lr_scheduler": "constant",
    "lora_rank": 16, "lora_targets": "conv", "epochs": 1500, "log_interval": 70,
}  # fmt: skip


def graph(**config: Any) -> Graph:
    """Trains, and shows the steps of the LoRA that is handed on; so does the best of the latest run, by its name."""
    return {
        **demo_loader(),
        **training(**config),
        "steps": node("PreviewAny", source=["train", 3]),
        "save": node("Darkroom_SaveLoRA", lora=["train", 0], filename="best"),
    }


def loaded(comfy: ComfyServer, run: str, step: str) -> tuple[str, str]:
    """The steps of the LoRA that a name gives, and what the node says of it."""
    load = node("Darkroom_LoadTrainedLoRA", run=run, checkpoint=step)
    outputs = comfy.run({"load": load, "show": node("PreviewAny", source=["load", 2])})
    return outputs["show"]["text"][0], outputs["load"]["text"][0]


@pytest.fixture(scope="module")
def first(comfy: ComfyServer) -> dict[str, Any]:
    """A run that is far too long, at far too high a rate."""
    return comfy.run(graph(**OVERFITS), limit=600)


@pytest.fixture
def folder(comfy: ComfyServer, first: dict[str, Any]) -> Path:
    return runs(comfy) / run_id(first)


def test_a_run_that_only_gets_worse_ends_by_itself_and_hands_on_its_best(
    comfy: ComfyServer, first: dict[str, Any], folder: Path
):
    result = json.loads((folder / "result.json").read_text("utf-8"))
    text = first["train"]["text"][0]
    assert result["total"] == 3000
    assert result["step"] < 1000
    assert f"stopped after {result['step']} of 3000 steps: 1 validations in a row were no better" in text
    best = validation.of(folder)
    assert best is not None
    assert result["best"]["step"] == best.step < result["step"]
    assert f"this is step {best.step} of {result['step']}, the best one: held-out loss" in text
    assert first["steps"]["text"] == [str(best.step)]
    name = first["save"]["text"][0].removeprefix("Saved as ")
    ours, theirs = load_file(comfy.base / "models" / "loras" / name), load_file(checkpoint.lora(folder, best.step))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    drift = [signals["drift"] for signals in validation.read(folder).steps.values()]
    assert set(drift[0].values()) == {0.0}
    assert min(drift[-1].values()) > 0


def test_the_unchanged_graph_returns_it_at_once(comfy: ComfyServer, first: dict[str, Any], folder: Path):
    before = (folder / "events.jsonl").read_bytes()
    comfy.post("/free", {"free_memory": True})
    began = time.monotonic()
    again = comfy.run(graph(**OVERFITS))
    assert time.monotonic() - began < 60
    assert (folder / "events.jsonl").read_bytes() == before
    assert again["steps"] == first["steps"]


def test_best_and_last_are_names_of_steps(comfy: ComfyServer, first: dict[str, Any], folder: Path):
    result = json.loads((folder / "result.json").read_text("utf-8"))
    best, last = result["best"]["step"], result["step"]
    assert loaded(comfy, folder.name, "last")[0] == str(last)
    steps, said = loaded(comfy, folder.name, "best")
    assert steps == str(best)
    assert f"best is step {best}: held-out loss" in said
    sweep = node("Darkroom_StrengthSweep", model=["base", 0], strengths="1", checkpoints="best, last", run=folder.name)
    shown = comfy.run({**demo_loader(), "sweep": sweep, "show": node("PreviewAny", source=["sweep", 2])})
    assert shown["show"]["text"] == [f"step {best}, 1", f"step {last}, 1"]


def test_the_routes_tell_of_it(comfy: ComfyServer, first: dict[str, Any], folder: Path):
    best = json.loads((folder / "result.json").read_text("utf-8"))["best"]
    (told,) = [run for run in comfy.get("/darkroom/runs")["runs"] if run["id"] == folder.name]
    assert told["best"] == {"step": best["step"], "reason": best["reason"]}
    one = comfy.get(f"/darkroom/runs/{folder.name}")
    assert {entry["signal"] for entry in one["validation"]} == {"held_out", "train", "drift"}
