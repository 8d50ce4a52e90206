"""Training in the graph of the real server: once, again, further, saved, applied, and with core's own nodes."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.host.graphs import CLIP, MODEL, Graph, apply_lora, demo_loader, node, picture, training
from tests.host.measure import planned_run, run_id, runs
from tests.host.server import ComfyServer, PromptFailed
from trainer import events, export
from trainer import job as jobs
from trainer.events import Checkpoint, RunFinished, RunStarted

pytestmark = pytest.mark.host


def starts(comfy: ComfyServer) -> int:
    """How many times a worker began to train, in all runs."""
    return sum(
        isinstance(event, RunStarted) for run in runs(comfy).iterdir() for event in events.read(run / "events.jsonl")[0]
    )


def train_and_draw(**config: Any) -> Graph:
    """Train, save, and draw with the base, at strength 0, 0.7 and 0.8."""
    graph = {**demo_loader(), **training(**config), **picture("base ")}
    for name, strength in (("zero", 0.0), ("lower", 0.7), ("usual", 0.8)):
        graph[f"apply {name}"] = apply_lora(strength)
        graph |= picture(f"{name} ", model=[f"apply {name}", 0])
    graph["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename="styles/neon \u6f2b")
    return graph


@pytest.fixture(scope="module")
def first(comfy: ComfyServer) -> dict[str, Any]:
    """What one queueing of the whole graph gave."""
    return comfy.run(train_and_draw())


@pytest.fixture
def saved(comfy: ComfyServer, first: dict[str, Any]) -> Path:
    """The file that Save LoRA wrote."""
    return comfy.base / "models" / "loras" / "styles" / "neon \u6f2b.safetensors"


def test_one_queueing_trains_saves_and_draws(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    drawn = {name: comfy.pixels(first[f"{name} picture"]["images"][0]) for name in ("base", "zero", "lower", "usual")}
    assert torch.equal(drawn["base"], drawn["zero"]), "strength 0 must be the base, bit for bit"
    assert not torch.equal(drawn["base"], drawn["lower"])
    assert not torch.equal(drawn["lower"], drawn["usual"])
    assert len(first["train"]["images"]) == 4  # three captions, and one that is far from them
    assert saved.is_file()
    assert "12 images (12 at 128x128), 12 with captions" in first["data"]["text"][0]


def test_the_server_shows_what_the_file_says_of_itself(comfy: ComfyServer, saved: Path):
    shown = comfy.get(f"/view_metadata/loras?filename={quote(f'styles/{saved.name}')}")
    assert shown["ss_base_model_version"] == "sd_v1"
    assert shown["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert shown["ss_network_module"] == "networks.lora"
    assert shown["sshs_model_hash"] == shown["modelspec.hash_sha256"].removeprefix("0x")
    assert shown == export.read(saved)[1]


def test_the_run_is_whole_and_private(comfy: ComfyServer, first: dict[str, Any]):
    run = runs(comfy) / run_id(first)
    told = events.read(run / "events.jsonl")[0]
    assert isinstance(told[-1], RunFinished)
    assert told[-1].step == 12
    assert [event.step for event in told if isinstance(event, Checkpoint)] == [2, 4, 6, 8, 10, 12]  # at least five
    for name in ("job.yaml", "dataset.jsonl", "result.json", "log.txt"):
        assert (run / name).is_file()
    for route in (f"/userdata/..%2F__lora_darkroom%2Fruns%2F{run.name}%2Fjob.yaml", f"/view?filename={run.name}"):
        with pytest.raises(PromptFailed):
            comfy.request(route)


def test_an_unchanged_graph_returns_at_once(comfy: ComfyServer, first: dict[str, Any]):
    before = starts(comfy)
    comfy.run(train_and_draw())
    comfy.run({**demo_loader(), **picture()})  # an other graph drops Train LoRA's result from ComfyUI's memory
    again = comfy.run({**demo_loader(), **training()})
    assert run_id(again) == run_id(first)
    assert starts(comfy) == before


def test_the_saved_file_is_the_runs_and_tells_what_it_is(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    run = runs(comfy) / run_id(first)
    ours, theirs = load_file(saved), load_file(run / f"{run.name}.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with safe_open(saved, "pt") as file:
        header = file.metadata()
    assert header["ss_output_name"] == header["modelspec.title"] == "neon \u6f2b"
    assert header["darkroom.run"] == run.name
    assert header["ss_network_dim"] == "4"


def test_the_saved_file_is_at_once_in_the_lists(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    name = first["save"]["text"][0].removeprefix("Saved as ")
    assert name == str(Path("styles") / saved.name)
    for loader, field in (("LoraLoader", "lora_name"), ("Darkroom_ApplyLoRA", "lora_name")):
        options = comfy.node_info(loader)["input"]["required"][field]
        assert name in (options[0] if isinstance(options[0], list) else options[1]["options"])
    assert saved.with_suffix(".preview.png").is_file()


def test_saving_never_writes_over_another_file(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    folder = comfy.base / "models" / "loras"
    other = {name: tensor * 2 for name, tensor in load_file(saved).items()}
    save_file(other, folder / "mine.safetensors")
    graph = {**demo_loader(), **training(), "save": node("Darkroom_SaveLoRA", lora=["train", 0], filename="mine")}
    comfy.run(graph)
    assert all(torch.equal(tensor, other[name]) for name, tensor in load_file(folder / "mine.safetensors").items())
    assert load_file(folder / "mine_002.safetensors").keys() == other.keys()
    comfy.post("/free", {"free_memory": True})
    comfy.run(graph)
    assert sorted(p.name for p in folder.glob("mine*")) == ["mine.safetensors", "mine_002.safetensors"]
    theirs, ours = folder / "mine_002.preview.png", saved.with_suffix(".preview.png")
    Image.new("RGB", (3, 3)).save(theirs)
    before = theirs.read_bytes(), ours.read_bytes()
    samples = {"samples": ["white", 0], "lora": ["train", 0]}
    comfy.run(
        {
            **demo_loader(), **training(), "white": node("EmptyImage", width=8, height=8, batch_size=1, color=0xFFFFFF),
            "save": node("Darkroom_SaveLoRA", **samples, filename="mine"),
            "same": node("Darkroom_SaveLoRA", **samples, filename=f"styles/{saved.stem}"),
        }
    )  # fmt: skip
    assert theirs.read_bytes() == before[0], "a preview that is not of this node"
    assert ours.read_bytes() != before[1]
    for name in ("../mine", "", "a/../../b", "x:y"):
        with pytest.raises(PromptFailed, match="filename"):
            comfy.run({**graph, "save": node("Darkroom_SaveLoRA", lora=["train", 0], filename=name)})


def test_more_epochs_extend_the_run(comfy: ComfyServer, first: dict[str, Any]):
    further = comfy.run({**demo_loader(), **training(epochs=6)})
    assert run_id(further) == run_id(first)
    told = events.read(runs(comfy) / run_id(first) / "events.jsonl")[0]
    assert [event.step for event in told if isinstance(event, RunStarted)] == [0, 12]
    assert further["train"]["text"][0].startswith("18 steps")


def test_what_shapes_a_run_makes_another_run(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), "skip": node("CLIPSetLastLayer", clip=CLIP, stop_at_clip_layer=-2)}
    others = [
        {**graph, **training(clip=["skip", 0])},
        {**graph, **training(learning_rate=2e-3)},
        {**graph, **training(trigger_word="darkroom")},
    ]
    assert len({run_id(first), *(planned_run(comfy, other) for other in others)}) == 4
    assert planned_run(comfy, {**graph, **training(log_interval=3, save_steps=7)}) == run_id(first)


def test_an_edited_caption_trains_anew(comfy: ComfyServer, first: dict[str, Any]):
    folder = comfy.base / "input" / "edited"
    shutil.copytree(comfy.base / "input" / "darkroom_demo", folder)
    graph = {**demo_loader(), **training(folder="edited")}
    assert planned_run(comfy, graph) == run_id(first), "a copy of the pictures is the same data set"
    min(folder.glob("*.txt")).write_text("a small green fish", encoding="utf-8")
    assert planned_run(comfy, graph) != run_id(first)


def test_auto_caption_fills_what_is_missing(comfy: ComfyServer, first: dict[str, Any]):
    folder = comfy.base / "input" / "10_red house"
    shutil.copytree(comfy.base / "input" / "darkroom_demo", folder)
    for path in sorted(folder.glob("*.txt"))[:2]:
        path.unlink()
    graph = {**demo_loader(), **training(folder="10_red house")}
    how = {"method": "folder", "mode": "missing", "format": "csv", "trigger_word": "darkroom"}
    graph["caption"] = node("Darkroom_AutoCaption", dataset=["data", 0], **how)
    graph["show"] = node("PreviewAny", source=["caption", 0])
    train = graph.pop("train")
    del graph["config"]
    outputs = comfy.run(graph)
    assert "10 with captions" in outputs["data"]["text"][0]
    assert "2 x no caption" in outputs["data"]["text"][0]
    assert "2 captions written" in outputs["caption"]["text"][0]
    assert "12 with captions" in outputs["caption"]["text"][0]
    assert "darkroom, red house" in (folder / "metadata.csv").read_text("utf-8")
    train["inputs"]["dataset"] = ["caption", 0]
    graph |= {"config": training()["config"], "train": train}
    run = runs(comfy) / planned_run(comfy, graph)
    assert (run / "dataset.jsonl").read_text("utf-8").count('["darkroom, red house"]') == 2


def test_core_nodes_take_our_lora_and_we_take_theirs(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    name = str(Path("styles") / saved.name)
    graph = {**demo_loader(), **training(), "plain apply": apply_lora(0.8)}
    graph["core apply"] = node("LoraModelLoader", model=MODEL, lora=["train", 0], strength_model=0.8, bypass=False)
    at = {"strength_model": 0.8, "strength_clip": 0.8}
    graph["core file"] = node("LoraLoader", model=MODEL, clip=CLIP, lora_name=name, **at)
    graph["our file"] = apply_lora(0.8, name=name)
    graph["core save"] = node("SaveLoRA", lora=["train", 0], prefix="loras/by core", steps=["train", 3])
    graph["plot"] = node("LossGraphNode", loss=["train", 1], filename_prefix="loss")
    ways = ("plain apply", "core apply", "core file", "our file")
    for way in ways:
        graph |= picture(f"{way} ", model=[way, 0])
    outputs = comfy.run(graph)
    drawn = [comfy.pixels(outputs[f"{way} picture"]["images"][0]) for way in ways]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    assert list((comfy.base / "output" / "loras").glob("by core_12_steps*.safetensors"))
    assert outputs["plot"]["images"]


def test_a_lora_of_cores_own_trainer_is_applied_and_saved(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), **picture()}
    graph["core train"] = node(
        "TrainLoraNode", model=MODEL, latents=["sampler", 0], positive=["yes", 0], batch_size=1, steps=2, rank=4,
        grad_accumulation_steps=1, learning_rate=1e-3, optimizer="AdamW", loss_function="MSE", seed=1,
        training_dtype="fp32", lora_dtype="fp32", quantized_backward=False, algorithm="LoRA",
        gradient_checkpointing=False, checkpoint_depth=1, offloading=False, existing_lora="[None]",
        bucket_mode=False, bypass_mode=False,
    )  # fmt: skip
    graph["apply"] = apply_lora(lora=["core train", 0])
    graph["save"] = node("Darkroom_SaveLoRA", lora=["core train", 0], filename="by core")
    graph |= picture("theirs ", model=["apply", 0])
    outputs = comfy.run(graph)
    assert outputs["save"]["text"] == ["Saved as by core.safetensors"]
    again = {**demo_loader(), "apply": apply_lora(name="by core.safetensors"), **picture(model=["apply", 0])}
    theirs, ours = (outputs["theirs picture"], comfy.run(again)["picture"])
    assert torch.equal(comfy.pixels(theirs["images"][0]), comfy.pixels(ours["images"][0]))


def test_a_patched_model_is_trained_with_its_patches(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    name = str(Path("styles") / saved.name)
    graph = {**demo_loader(), "other": apply_lora(1.0, name=name), **training(model=["other", 0], epochs=1)}
    outputs = comfy.run(graph)
    assert "patched weights are exported once" in outputs["train"]["text"][0]
    assert run_id(outputs) != run_id(first)
    exported = jobs.load(runs(comfy) / run_id(outputs)).base.file
    assert exported.parent.name == "bases"
    weights = load_file(exported)
    seen = comfy.probe("weights", graph, {"model": ["other", 0]}, keys=[])
    assert len(seen.tensors) > 40
    assert all(torch.allclose(weights[f"model.{key}"], weight, atol=1e-6) for key, weight in seen.tensors.items())
    with safe_open(exported, "pt") as file:
        assert "darkroom.sd15" in file.metadata()


def test_a_model_of_a_foreign_loader_is_trained_on_its_weights(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), "foreign": node("DarkroomForeign", model=MODEL), **training(model=["foreign", 0])}
    job = jobs.load(runs(comfy) / planned_run(comfy, graph))
    weights, file = load_file(job.base.file), load_file(comfy.pack / "trainer" / "demo" / "base.safetensors")
    assert job.base.file.parent.name == "bases"
    assert weights.keys() == {name for name in file if name.startswith("model.diffusion_model.")}
    assert all(torch.equal(weights[name], file[name].float()) for name in weights)
    assert planned_run(comfy, graph) == job.run_id, "the same weights are the same base"


def test_fp8_weights_are_trained_from_the_file_and_with_patches_refused(comfy: ComfyServer, saved: Path):
    file = comfy.base / "models" / "diffusion_models" / "fp8 base.safetensors"
    file.parent.mkdir(exist_ok=True)
    shutil.copy(comfy.pack / "trainer" / "demo" / "base.safetensors", file)
    loader = node("UNETLoader", unet_name=file.name, weight_dtype="fp8_e4m3fn")
    graph = {**demo_loader(), "fp8": loader, **training(model=["fp8", 0])}
    outputs = comfy.run(graph)
    assert "computes in fp8" in outputs["train"]["text"][0]
    assert run_id(outputs) == run_id(comfy.run({**demo_loader(), **training()})), "it is the file that is trained"
    patched = apply_lora(1.0, model=["fp8", 0], name=str(Path("styles") / saved.name))
    graph = {**graph, "patched": patched, **training(model=["patched", 0])}
    with pytest.raises(PromptFailed, match=r"quantised or of a foreign kind .*float8") as caught:
        comfy.run(graph)
    assert "base_file" in caught.value.details["exception_message"]
    outputs = comfy.run({**graph, **training(model=["patched", 0], base_file=file.name)})
    assert "what is patched onto the wired MODEL is not in it" in outputs["train"]["text"][0]


def test_a_lora_that_does_not_fit_is_an_error(comfy: ComfyServer, first: dict[str, Any], saved: Path):
    folder = comfy.base / "models" / "loras"
    tensors = load_file(saved)
    some = next(iter(tensors)).split(".")[0]
    save_file({**tensors, "lora_unet_no_such_layer.lora_up.weight": torch.ones(2, 2)}, folder / "unknown.safetensors")
    wrong = {**tensors, f"{some}.lora_down.weight": torch.ones(4, 7)}
    save_file(wrong, folder / "wrong shape.safetensors")
    save_file({f"{k.replace('lora_unet', 'lora_te')}": v for k, v in tensors.items()}, folder / "texts.safetensors")
    for name, message in (
        ("unknown.safetensors", "1 of the LoRA's .* tensors match nothing .*no_such_layer"),
        ("wrong shape.safetensors", "1 of the LoRA's .* layers have another shape"),
        ("texts.safetensors", "no CLIP is wired"),
    ):
        with pytest.raises(PromptFailed, match=message):
            comfy.run({**demo_loader(), "apply": apply_lora(name=name), **picture(model=["apply", 0])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "lcm"}, "of the kind LCM"),
        ({"sampling": "x0"}, "of the kind X0"),
        ({"sampling": "eps", "zsnr": True}, "samples epsilon with zero terminal SNR"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(comfy: ComfyServer, change: dict[str, Any], message: str):
    sampling = node("ModelSamplingDiscrete", model=MODEL, **{"zsnr": False, **change})
    with pytest.raises(PromptFailed, match=message) as caught:
        comfy.run({**demo_loader(), "sampling": sampling, **training(model=["sampling", 0])})
    assert caught.value.details["node_type"] == "Darkroom_TrainLoRA"


def test_a_base_file_of_another_kind_is_refused_before_anything_is_encoded(comfy: ComfyServer):
    """Only its header is read, so that is all there is."""
    shapes = {"x.attn2.to_k.weight": [8, 2048], "label_emb.0.0.weight": [8, 2816]}
    about = {"dtype": "F16", "data_offsets": [0, 0]}
    data = json.dumps({f"model.diffusion_model.{name}": {**about, "shape": shape} for name, shape in shapes.items()})
    file = comfy.base / "models" / "checkpoints" / "an sdxl.safetensors"
    file.write_bytes(struct.pack("<Q", len(data)) + data.encode())
    with pytest.raises(PromptFailed, match=r"an sdxl\.safetensors is of the kind sdxl, but the wired MODEL is sd15"):
        comfy.run({**demo_loader(), **training(base_file=file.name)})


@pytest.mark.parametrize("zsnr", [False, True])
def test_the_models_sampling_is_what_is_trained(comfy: ComfyServer, zsnr: bool):
    """Whatever the file says: Stable Diffusion 1.5 models that predict v are loaded as epsilon, and need this node."""
    sampling = node("ModelSamplingDiscrete", model=MODEL, sampling="v_prediction", zsnr=zsnr)
    run = planned_run(comfy, {**demo_loader(), "sampling": sampling, **training(model=["sampling", 0])})
    base = jobs.load(runs(comfy) / run).base
    assert (base.prediction, base.zero_terminal_snr) == ("v_prediction", zsnr)


def test_what_training_does_not_see_is_said(comfy: ComfyServer, first: dict[str, Any]):
    freeu = node("FreeU", model=MODEL, b1=1.1, b2=1.2, s1=0.9, s2=0.2)
    outputs = comfy.run({**demo_loader(), "freeu": freeu, **training(model=["freeu", 0])})
    assert "output_block_patch" in outputs["train"]["text"][0]
    assert run_id(outputs) == run_id(first)


def test_a_bypass_lora_is_refused(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), **training()}
    graph["bypass"] = node("LoraModelLoader", model=MODEL, lora=["train", 0], strength_model=0.8, bypass=True)
    graph["again"] = {**graph["train"], "inputs": {**graph["train"]["inputs"], "model": ["bypass", 0]}}
    with pytest.raises(PromptFailed, match="bypass mode"):
        comfy.run(graph)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"path": "/no/such \u6f2b"}, "/no/such .* does not exist"),
        ({"path": '"EMPTY"'}, "no image"),
        ({"folder": "of another machine"}, "of another machine does not exist"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    comfy: ComfyServer, inputs: dict[str, str], message: str, tmp_path: Path
):
    graph = {**demo_loader(), **training()}
    graph["data"]["inputs"].update({name: text.replace("EMPTY", str(tmp_path)) for name, text in inputs.items()})
    with pytest.raises(PromptFailed, match=message):
        comfy.run(graph)


def test_a_typed_path_wins_over_a_folder_that_is_not_here(comfy: ComfyServer, first: dict[str, Any]):
    graph = {**demo_loader(), **training()}
    path = f'"{comfy.base / "input" / "darkroom_demo"}" '  # as Windows' "Copy as path" gives it
    graph["data"]["inputs"].update(folder="of another machine", path=path)
    assert run_id(comfy.run(graph)) == run_id(first)


def test_what_only_the_trainer_knows_of_a_config_is_told_by_the_node(comfy: ComfyServer):
    # The widgets bound single values; that 100 is no multiple of 64 they do not know.
    with pytest.raises(PromptFailed, match="resolution: expected a multiple of 64") as caught:
        comfy.run({**demo_loader(), **training(resolution=100)})
    assert caught.value.details["node_type"] == "Darkroom_LoRATrainConfig"


def test_the_failure_of_a_worker_is_the_nodes_error(comfy: ComfyServer):
    explosive = training(learning_rate=10.0, lora_alpha=4096.0, max_grad_norm=0.0, training_seed=3, epochs=40)
    with pytest.raises(PromptFailed, match="steps in a row were not finite") as caught:
        comfy.run({**demo_loader(), **explosive})
    assert caught.value.details["node_type"] == "Darkroom_TrainLoRA"
    assert "learning_rate" in caught.value.details["exception_message"]


def test_what_does_not_fit_is_given_up_before_the_first_step_and_said_on_the_node(comfy: ComfyServer):
    """On this CPU the limit is one of RAM: the worker itself takes half a GB."""
    config = {"batch_size": 48, "gradient_checkpointing": False, "base_weights": "full", "vram_limit": 1.0, "epochs": 2}
    graph = {**demo_loader(), **training(**config)}
    graph["data"]["inputs"]["repeats"] = 4
    outputs = comfy.run(graph)
    (text,) = outputs["train"]["text"]
    assert text.startswith("2 steps")
    assert "GB, and 1.0 are free: going on with " in text
    assert "memory      " in text
    assert " GB of 1.0: base 0.0, adapter 0.0, activations " in text
    assert "trained in  " in text
    result = json.loads((runs(comfy) / run_id(outputs) / "result.json").read_text("utf-8"))["memory"]
    assert result["planned"] <= 2**30
    assert result["savings"] != {**result["savings"], "half": False, "batch": 48}
