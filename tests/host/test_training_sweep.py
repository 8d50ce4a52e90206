"""Training Sweep in the real server: a run a value, through the same worker, and found again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.graphs import CLIP, MODEL, VAE, Graph, demo_loader, node, training
from tests.host.measure import runs
from tests.host.server import ComfyServer, PromptFailed

pytestmark = pytest.mark.host


def sweep(values: str = "2, 8", setting: str = "lora_rank", **config: Any) -> Graph:
    graph = {**demo_loader(), **training(epochs=1, validation_images=3, training_seed=31, **config)}
    del graph["train"]
    wired = {"dataset": ["data", 0], "config": ["config", 0], "model": MODEL, "clip": CLIP, "vae": VAE}
    graph["sweep"] = node("Darkroom_TrainingSweep", setting=setting, values=values, **wired)
    graph["steps"] = node("PreviewAny", source=["sweep", 1])
    graph["save"] = node("Darkroom_SaveLoRA", lora=["sweep", 2], filename="kept")
    return graph


def test_every_value_is_trained_once_and_compared(comfy: ComfyServer):
    outputs = comfy.run(sweep())
    (table,) = outputs["sweep"]["text"]
    lines = table.split("\n")
    assert [line.split()[0] for line in lines[1:3]] == ["2", "8"]
    assert "keep lora_rank" in lines[-1]
    assert [row[0] for row in outputs["sweep"]["rows"]] == ["lora_rank", "2", "8", lines[-1]]
    picture = comfy.pixels(outputs["sweep"]["images"][0])
    assert picture.shape[-2] > 2 * 128
    assert outputs["save"]["text"] == ["Saved as kept.safetensors"]
    before = {path: path.read_bytes() for path in runs(comfy).glob("*/events.jsonl")}
    comfy.post("/free", {"free_memory": True})
    again = comfy.run(sweep("8, 2"))
    assert {path: path.read_bytes() for path in runs(comfy).glob("*/events.jsonl")} == before, "nothing was trained"
    assert sorted(again["sweep"]["text"][0].split("\n")[1:3])[0].startswith("2 ")


@pytest.mark.parametrize(
    ("setting", "values", "message"),
    [("lora_rank", "8", "expected 2 to 20"), ("lora_rank", "8, many", "lora_rank: expected a whole number")],
)
def test_values_that_cannot_be_are_refused_before_anything_is_trained(
    comfy: ComfyServer, setting: str, values: str, message: str
):
    before = set(runs(comfy).glob("*"))
    with pytest.raises(PromptFailed, match=message) as caught:
        comfy.run(sweep(values, setting))
    assert caught.value.details["node_type"] == "Darkroom_TrainingSweep"
    assert set(runs(comfy).glob("*")) == before
