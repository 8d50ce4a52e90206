"""The panel on Train LoRA: what the server tells of a run, and what a person does with it in the page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.host.accidents import reach, starts, told, wait_for
from tests.host.graphs import Graph, demo_loader, training
from tests.host.measure import runs
from tests.host.server import ComfyServer, PromptFailed
from trainer.events import Checkpoint, Sample, Step

pytestmark = pytest.mark.host
FLOW = "0f0e0d0c-1111-2222-3333-444455556666"
EXTRA: dict[str, Any] = {"extra_data": {"extra_pnginfo": {"workflow": {"id": FLOW, "nodes": [], "links": []}}}}


def long_training(seed: int, **more: Any) -> Graph:
    """90 steps of the demo's 12 pictures: some ten seconds."""
    settings: dict[str, Any] = {"epochs": 30, "save_steps": 1000, "sample_every": 1000, "training_seed": seed, **more}
    return {**demo_loader(), **training(**settings)}


def shown(comfy: ComfyServer) -> dict[str, Any]:
    return comfy.get(f"/darkroom/shown?workflow={FLOW}")["nodes"]


def new_run_of(comfy: ComfyServer, before: set[Path]) -> Path:
    """The run that has just begun to train."""
    found = wait_for(
        lambda: {path for path in runs(comfy).glob("*/events.jsonl") if path.parent not in before}, "a run"
    )
    return found.pop().parent


def control(comfy: ComfyServer, run: Path, action: str) -> dict[str, Any]:
    return comfy.post(f"/darkroom/runs/{run.name}/control", {"action": action})


def count(run: Path, kind: type) -> int:
    return sum(isinstance(event, kind) for event in told(run))


def test_a_run_is_paused_saved_sampled_kept_and_goes_on(comfy: ComfyServer):
    graph = long_training(8101)
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph, **EXTRA)
    run = new_run_of(comfy, before)
    reach(run, 3)
    assert shown(comfy)["train"]["run"] == run.name
    story = comfy.get(f"/darkroom/runs/{run.name}/story")
    assert (story["run"]["state"], story["phase"]["name"], story["end"]) == ("running", "training", None)
    assert story["where"] == {"workflow": FLOW, "node": "train"}
    assert [one[0] for one in story["losses"]][:3] == [1, 2, 3]

    control(comfy, run, "pause")
    wait_for(lambda: comfy.get(f"/darkroom/runs/{run.name}/story")["phase"]["name"] == "paused", "the pause")
    paused = count(run, Step)
    control(comfy, run, "save")
    control(comfy, run, "sample")
    control(comfy, run, "resume")
    wait_for(lambda: count(run, Step) > paused, "steps after the pause")
    wait_for(lambda: count(run, Checkpoint) and count(run, Sample), "a checkpoint and samples")

    # The sample is a picture of its own, as large as it was drawn.
    sample = wait_for(
        lambda: (comfy.get(f"/darkroom/runs/{run.name}/story")["samples"] or [{}])[0].get("picture"), "it"
    )
    picture = Image.open(io.BytesIO(comfy.request(f"/darkroom/runs/{run.name}/samples/{sample}")))
    assert (picture.format, picture.size) == ("WEBP", (128, 128))

    control(comfy, run, "keep")
    entry = comfy.wait(prompt)
    assert entry["status"]["status_str"] == "success", comfy.log()[-3000:]
    (text,) = entry["outputs"]["train"]["text"]
    kept = max(event.step for event in told(run) if isinstance(event, Checkpoint))
    assert kept < 90
    assert f"stopped after {kept} of 90 steps, and kept" in text
    assert entry["outputs"]["train"]["images"]
    assert comfy.get(f"/darkroom/runs/{run.name}")["state"] == "stopped"
    with pytest.raises(PromptFailed, match="not running"):
        control(comfy, run, "pause")

    again = comfy.run(graph, **EXTRA)
    assert "90 steps" in again["train"]["text"][0]
    assert starts(run) == [0, kept]
    third = comfy.wait(comfy.queue(graph, **EXTRA))
    assert "train" not in comfy.executed(third), "what has finished comes out of the cache"
    assert starts(run) == [0, kept]


@pytest.mark.parametrize("name", ["../job.yaml", "..%2fjob.yaml", "job.yaml", "step-000090-0.safetensors", "", "."])
def test_only_pictures_of_samples_are_served(comfy: ComfyServer, name: str):
    (run,) = {one["run"] for one in shown(comfy).values()} or {"latest"}
    with pytest.raises(PromptFailed, match=r"^40[0345]"):
        comfy.request(f"/darkroom/runs/{run}/samples/{name}")


@pytest.mark.parametrize("asked", [{}, {"action": "dance"}, {"action": "stop", "more": 1}, {"action": ["stop"]}])
def test_what_is_no_request_is_refused(comfy: ComfyServer, asked: dict[str, Any]):
    with pytest.raises(PromptFailed, match=r"^400"):
        comfy.post("/darkroom/runs/latest/control", asked)
