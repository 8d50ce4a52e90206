"""A run loaded by its name, its checkpoints and strengths side by side, and what the routes tell of it."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.host.graphs import CLIP, MODEL, VAE, Graph, apply_lora, demo_loader, node, picture, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, PromptFailed

pytestmark = pytest.mark.host
STRENGTHS = "0, 0.7, 0.8, 1.0"


def sweep(strengths: str = STRENGTHS, checkpoints: str = "", **more: Any) -> Graph:
    """Strength Sweep of the demo base as `sweep`, the stock text-to-image graph behind it, and a grid."""
    wired = {"model": MODEL, "clip": CLIP, "strengths": strengths, "checkpoints": checkpoints, "run": "latest", **more}
    return {
        **demo_loader(),
        "sweep": node("Darkroom_StrengthSweep", **wired),
        **picture(model=["sweep", 0], clip=["sweep", 1]),
        "grid": node(
            "Darkroom_LabelledGrid", images=["decode", 0], labels=["sweep", 2], columns=["sweep", 3],
            title="\u5f3a\u5ea6 and steps",
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(comfy: ComfyServer) -> dict[str, Any]:
    """A run of 12 steps with checkpoints at 4, 8 and 12."""
    return comfy.run({**demo_loader(), **training(save_steps=4, learning_rate=3e-3, training_seed=77)})


@pytest.fixture
def run(comfy: ComfyServer, trained: dict[str, Any]) -> str:
    """Its id; it is the latest, whatever other tests have trained since."""
    (runs(comfy) / run_id(trained) / "events.jsonl").touch()
    return run_id(trained)


def load(run: str = "latest", checkpoint: str = "last") -> Graph:
    return {"load": node("Darkroom_LoadTrainedLoRA", run=run, checkpoint=checkpoint)}


def shown(outputs: dict[str, Any], name: str) -> str:
    (text,) = outputs[name]["text"]
    return text


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two pictures are the same but for rounding: ComfyUI cuts off what it saves."""
    return one.shape == other.shape and float((one - other).abs().max()) < 2.5 / 255


def test_one_run_by_many_names(comfy: ComfyServer, run: str):
    data = "darkroom_demo"
    graph = {"show": node("PreviewAny", source=["load", 2])}
    for name in ("latest", "", run, run[:5], f"{data} {run}", data.upper()):
        outputs = comfy.run({**load(name), **graph})
        assert shown(outputs, "load") == f"{data} {run}, step 12", name
        assert outputs["show"]["text"] == ["12"]
    for step in ("8", "step 8", "Step 00008"):
        assert shown(comfy.run({**load(run, step), **graph}), "load") == f"{data} {run}, step 8"


@pytest.mark.parametrize(
    ("given", "message", "cure"),
    [
        (("darkrom_demo", "last"), "run: there is no run darkrom_demo", "choose one, such as darkroom_demo"),
        (("../../other", "last"), r"run: there is no run \.\./\.\./other", "type latest"),
        (("latest", "step 5"), "checkpoint: there is no step 5 in this run", "12, last and best"),
        (("latest", "lowest"), "checkpoint: lowest is no step", "there are "),
    ],
)
def test_what_is_not_there_is_named(comfy: ComfyServer, run: str, given: tuple[str, str], message: str, cure: str):
    with pytest.raises(PromptFailed, match=message) as caught:
        comfy.run({**load(*given), "show": node("PreviewAny", source=["load", 2])})
    assert caught.value.details["node_type"] == "Darkroom_LoadTrainedLoRA"
    assert cure in caught.value.details["exception_message"]


def test_the_loaded_lora_is_the_runs_file(comfy: ComfyServer, run: str):
    graph = {**load(run, "8"), "save": node("Darkroom_SaveLoRA", lora=["load", 0], filename="by step \u6b65")}
    name = shown(comfy.run(graph), "save").removeprefix("Saved as ")
    ours = load_file(comfy.base / "models" / "loras" / name)
    theirs = load_file(runs(comfy) / run / "checkpoints" / "step-000008" / "lora.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_strengths_give_a_picture_each_and_0_is_the_base(comfy: ComfyServer, run: str):
    graph = {**sweep(lora=["load", 0]), **load(run), **picture("base ")}
    for strength in (0.7, 0.8, 1.0):
        graph[f"apply {strength}"] = apply_lora(strength, lora=["load", 0])
        graph |= picture(f"{strength} ", model=[f"apply {strength}", 0])
    outputs = comfy.run(graph)
    assert shown(outputs, "sweep") == "the wired LoRA: 4 models"
    swept = [comfy.pixels(image) for image in outputs["picture"]["images"]]
    alone = [comfy.pixels(outputs[f"{name} picture"]["images"][0]) for name in ("base", "0.7", "0.8", "1.0")]
    assert len(swept) == 4
    assert all(torch.equal(one, other) for one, other in zip(swept, alone, strict=True))
    assert len({one.numpy().tobytes() for one in swept}) == 4
    (made,) = outputs["grid"]["images"]
    grid = comfy.pixels(made)
    assert grid.shape[1] == 4 * 128 + 5 * 6
    for column, one in enumerate(swept):
        assert close(grid[-128 - 6 : -6, 6 + column * 134 : 6 + column * 134 + 128], one)


def test_checkpoints_times_strengths(comfy: ComfyServer, run: str):
    outputs = comfy.run({**sweep("0, 0.8, 1.2", "all", run=run), "show": node("PreviewAny", source=["sweep", 2])})
    steps = comfy.get(f"/darkroom/runs/{run}")["steps"]
    assert {4, 8, 12} <= set(steps)
    assert shown(outputs, "sweep") == f"darkroom_demo {run}: {3 * len(steps)} models"
    swept = [comfy.pixels(image) for image in outputs["picture"]["images"]]
    assert len(swept) == 3 * len(steps)
    base = [swept[index] for index in range(0, len(swept), 3)]
    assert all(torch.equal(base[0], one) for one in base)
    assert len({one.numpy().tobytes() for one in swept}) == 1 + 2 * len(steps)
    labels = outputs["show"]["text"]
    assert labels[:3] == [f"step {steps[0]}, base", f"step {steps[0]}, 0.8", f"step {steps[0]}, 1.2"]
    grid = comfy.image(outputs["grid"]["images"][0])
    assert grid.width == 3 * 128 + 4 * 6
    assert grid.height > len(steps) * 134


def test_the_checkpoints_of_a_wired_loras_run(comfy: ComfyServer, run: str):
    graph = {**sweep("1", "last, 4", lora=["load", 0]), **load(run, "8")}
    graph["show"] = node("PreviewAny", source=["sweep", 2])
    outputs = comfy.run(graph)
    assert outputs["show"]["text"] == ["step 12, 1", "step 4, 1"]
    graph["sweep"]["inputs"] |= {"checkpoints": "", "strengths": "0.5"}
    assert comfy.run(graph)["show"]["text"] == ["0.5"]


def test_a_sweep_needs_no_clip(comfy: ComfyServer, run: str):
    graph = sweep("0.8, 1")
    del graph["sweep"]["inputs"]["clip"]
    graph |= picture(model=["sweep", 0])
    assert len(comfy.run(graph)["picture"]["images"]) == 2


def test_many_models_share_their_weights(comfy: ComfyServer, run: str):
    graph = sweep(", ".join(f"{n / 50}" for n in range(1, 41)), run=run)
    shared = {n: graph[n] for n in ("base", "sweep")} | {"shared": node("DarkroomShared", model=["sweep", 0])}
    found = comfy.run(shared)["shared"]["seen"][0]
    lora = load_file(runs(comfy) / run / f"{run}.safetensors")
    weights = sum(not name.endswith("alpha") for name in lora)
    assert found == {"models": 40, "bases": 1, "tensors": weights}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strengths": "0.8, high"}, "strengths: '0.8, high' are no numbers from -20 to 20"),
        ({"strengths": " "}, "strengths: ' ' are no numbers"),
        ({"strengths": "nan"}, "strengths: 'nan' are no numbers"),
        ({"checkpoints": "3"}, "checkpoint: there is no step 3 in this run"),
        ({"strengths": ",".join(["1"] * 201)}, "1 checkpoints at 201 strengths are 201 models; expected at most 200"),
    ],
)
def test_what_cannot_be_swept_is_named(comfy: ComfyServer, run: str, change: dict[str, str], message: str):
    with pytest.raises(PromptFailed, match=message) as caught:
        comfy.run(sweep(**{"run": run, **change}))
    assert caught.value.details["node_type"] == "Darkroom_StrengthSweep"


def test_a_lora_of_no_run_has_no_checkpoints(comfy: ComfyServer, run: str):
    graph = {**sweep("1", "all", lora=["load", 0]), **load(run)}
    graph["foreign"] = node("DarkroomPlain", anything=["load", 0])
    graph["sweep"]["inputs"]["lora"] = ["foreign", 0]
    with pytest.raises(PromptFailed, match="the wired LoRA is of no run that is here"):
        comfy.run(graph)


def test_labels_of_another_number_are_refused(comfy: ComfyServer, run: str):
    graph = {**demo_loader(), **picture()}
    graph["sweep"] = node("Darkroom_StrengthSweep", model=MODEL, strengths="0, 1", checkpoints="", run=run)
    graph["grid"] = node("Darkroom_LabelledGrid", images=["decode", 0], labels=["sweep", 2])
    with pytest.raises(PromptFailed, match="labels: there are 2 for 1 pictures"):
        comfy.run(graph)


def test_a_batch_lies_below_its_models(comfy: ComfyServer, run: str):
    graph = sweep("0, 1", run=run)
    graph["empty"]["inputs"]["batch_size"] = 3
    outputs = comfy.run(graph)
    drawn = [comfy.pixels(image) for image in outputs["picture"]["images"]]
    grid = comfy.pixels(outputs["grid"]["images"][0])
    assert grid.shape[1] == 2 * 128 + 3 * 6
    assert close(grid[-134:-6, 6:134], drawn[2]), "the base's third picture is the last row's first"
    assert close(grid[-134:-6, 140:268], drawn[5])


def test_cores_grid_takes_the_sweeps_pictures(comfy: ComfyServer, run: str):
    graph = sweep("0, 1", run=run)
    graph["core"] = node(
        "ImageGrid", images=["decode", 0], columns=2, cell_width=128, cell_height=128, padding=4
    )  # fmt: skip
    graph["show"] = node("PreviewImage", images=["core", 0])
    outputs = comfy.run(graph)
    assert comfy.image(outputs["show"]["images"][0]).size == (260, 128)


def test_latest_looks_again_when_a_run_gives_something_new(comfy: ComfyServer, run: str):
    graph = {**load(), "show": node("PreviewAny", source=["load", 1])}
    first = comfy.run(graph)["show"]["text"]
    later = comfy.run({**demo_loader(), **training(save_steps=4, training_seed=78, epochs=1)})
    assert comfy.run(graph)["show"]["text"] == [run_id(later)] != first
    entry = comfy.wait(comfy.queue(graph))
    assert "load" not in comfy.executed(entry), "unchanged, it comes out of ComfyUI's cache"


def test_a_checkpoint_that_cannot_be_read_is_named_and_the_one_before_is_taken(comfy: ComfyServer):
    made = comfy.run({**demo_loader(), **training(save_steps=1, training_seed=79, epochs=1)})
    run, show = run_id(made), {"show": node("PreviewAny", source=["load", 2])}
    folder = runs(comfy) / run
    steps = comfy.get(f"/darkroom/runs/{run}")["checkpoints"]
    (folder / "result.json").unlink()
    broken = folder / "checkpoints" / f"step-{steps[-1]:06d}" / "lora.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    text = shown(comfy.run({**load(run), **show}), "load").splitlines()
    assert text[0] == f"darkroom_demo {run}, step {steps[-2]}"
    assert text[1].startswith(f"- step {steps[-1]} cannot be read and is left out: ")
    with pytest.raises(PromptFailed, match="cannot be read as a LoRA"):
        comfy.run({**load(run, str(steps[-1])), **show})
    swept = comfy.run(sweep("1", "all", run=run))
    assert len(swept["picture"]["images"]) == len(steps) - 1
    assert f"step {steps[-1]} cannot be read" in shown(swept, "sweep")


def test_the_routes_tell_of_runs(comfy: ComfyServer, run: str):
    began = time.time()
    (told,) = [one for one in comfy.get("/darkroom/runs")["runs"] if one["id"] == run]
    assert (told["name"], told["family"], told["state"]) == ("darkroom_demo", "sd15", "finished")
    assert (told["step"], told["total"], told["finished"], told["seconds_left"]) == (12, 12, [12], 0)
    assert told["label"] == f"darkroom_demo {run}"
    assert 0 < told["loss"] < 2
    assert began - 3600 < told["started"] <= told["ended"] <= began
    for name in (run, run[:6], f"darkroom_demo%20{run}"):
        more = comfy.get(f"/darkroom/runs/{name}")
        assert more["id"] == run
    assert more["failure"] is None
    assert more["config"]["training_seed" if "training_seed" in more["config"] else "seed"] == 77
    assert str(comfy.base) not in json.dumps(more, ensure_ascii=False)
    for name in ("..%2F..", "nothing", "..%5C..%5Crun", "%2Fetc%2Fpasswd"):
        with pytest.raises(PromptFailed, match="there is no run"):
            comfy.get(f"/darkroom/runs/{name}")


def test_a_bypassed_training_does_not_break_what_is_behind_it(comfy: ComfyServer, trained: dict[str, Any]):
    """What the page queues then: nodes whose link to Train LoRA is absent."""
    graph = {**demo_loader(), **picture("base "), "save": node("Darkroom_SaveLoRA", filename="nothing")}
    graph["apply"] = node(
        "Darkroom_ApplyLoRA", model=MODEL, clip=CLIP, lora_name="(the wired LoRA)", strength_model=0.8,
        strength_clip=0.8,
    )  # fmt: skip
    graph |= picture(model=["apply", 0], clip=["apply", 1])
    outputs = comfy.run(graph)
    assert shown(outputs, "apply") == "No LoRA: none is wired, and no file is chosen"
    assert shown(outputs, "save") == "Nothing to save: no LoRA is wired"
    base, same = (comfy.pixels(outputs[name]["images"][0]) for name in ("base picture", "picture"))
    assert torch.equal(base, same)


def test_a_file_of_a_shared_workflow_matters_only_where_it_is_used(comfy: ComfyServer, run: str):
    gone = apply_lora(name="of another machine.safetensors")
    graph = {**demo_loader(), **load(run), "apply": gone, **picture(model=["apply", 0])}
    with pytest.raises(PromptFailed, match=r"lora_name: there is no LoRA of another machine\.safetensors") as caught:
        comfy.run(graph)
    assert caught.value.details["node_type"] == "Darkroom_ApplyLoRA"
    gone["inputs"]["lora"] = ["load", 0]
    said = shown(comfy.run(graph), "apply")
    assert re.fullmatch(rf"step \d+( \(the best\))? of darkroom_demo {run} at 0\.8", said), said


def test_vae_and_clip_are_mapped_as_they_come(comfy: ComfyServer, run: str):
    """A sweep's CLIP may be left out of the graph: the base's own serves all models."""
    graph = sweep("0, 1", run=run)
    graph |= picture(model=["sweep", 0], clip=CLIP, vae=VAE)
    drawn = comfy.run(graph)["picture"]["images"]
    assert len(drawn) == 2


def test_an_unchanged_graph_draws_nothing_anew(comfy: ComfyServer, run: str):
    """Whatever run is the latest by now: what is wired is known by its link."""
    applied = node(
        "Darkroom_ApplyLoRA", model=MODEL, clip=CLIP, lora=["load", 0], lora_name="of another machine.safetensors",
        strength_model=0.8, strength_clip=0.8,
    )  # fmt: skip
    graph = {
        **demo_loader(), **training(training_seed=79), "load": node("Darkroom_LoadTrainedLoRA", run=["train", 4]),
        "sweep": node("Darkroom_StrengthSweep", model=MODEL, clip=CLIP, lora=["train", 0], strengths="0.5, 1"),
        **picture("swept ", model=["sweep", 0], clip=["sweep", 1], steps=2),
        "apply": applied, **picture("applied ", model=["apply", 0], clip=["apply", 1], steps=2),
    }  # fmt: skip
    graph["load"]["inputs"]["checkpoint"] = "last"
    comfy.run(graph)
    entry = comfy.wait(comfy.queue(graph))
    assert entry["status"]["status_str"] == "success"
    assert comfy.executed(entry) == []
