"""The trainer and the host compute the same: latents, conditioning, predictions, and the weights of a trained LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.host.checkpoints import SDXL, add_random_sdxl
from tests.host.graphs import CLIP, apply_lora, checkpoint_loader, demo_loader, training
from tests.host.measure import planned_run, relative_error, run_id, runs
from tests.host.server import ComfyServer
from trainer import adapters, checkpoint, families, planning
from trainer import config as configs
from trainer import job as jobs
from trainer.cache import Cache
from trainer.dataset import load_pixels, scan
from trainer.families import ldm
from trainer.job import Job

pytestmark = pytest.mark.host
CAPTIONS = [
    "name_(series), a red circle",
    "",
    "a big blue star on a white background, " * 12 + "(heart:1.3)",
    "embedding:circle [a] {b|c} \u00fcber \u6f2b\u753b",
]
SIZES = [(128, 128), (150, 131), (257, 140), (64, 200)]


@pytest.fixture(scope="module")
def trained(comfy: ComfyServer) -> tuple[dict[str, Any], Path, Job]:
    """A run on pictures of several sizes with difficult captions: its graph, folder and job."""
    # A gentle rate: a LoRA of noise at a high one makes the denoiser amplify the rounding of fp32 itself to 1e-4.
    config = {"lora_targets": "conv", "lora_alpha": 3.0, "epochs": 3, "learning_rate": 3e-4, "flip": True}
    graph = {**demo_loader(), **training(folder=difficult_pictures(comfy), **config)}
    run = runs(comfy) / run_id(comfy.run(graph))
    return graph, run, jobs.load(run)


def difficult_pictures(comfy: ComfyServer) -> str:
    """A folder below input: pictures of odd sizes, captions with brackets, none, and over a hundred tokens."""
    folder = comfy.base / "input" / "Parit\u00e4t \u6f2b\u753b"
    folder.mkdir(exist_ok=True)
    for index, (caption, size) in enumerate(zip(CAPTIONS, SIZES, strict=True)):
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(index))
        Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder.name


def check_encoded(job: Job, parts: set[str], resolution: int) -> None:
    """What the host put into the cache for the difficult pictures is what the trainer's own encoders give."""
    encoders = families.get(job.base.family).load_encoders(job.base.file)
    cache = Cache(job.cache_dir)
    images = {image.id: image for image in scan(Path(job.items[0].path).parent, resolution=resolution).items}
    assert len(job.items) == len(CAPTIONS)
    assert len({item.bucket for item in job.items}) > 1
    for item in job.items:
        for key, flip in ((item.latents, False), (item.flipped, True)):
            ours = encoders.encode_images(load_pixels(images[item.id], flip=flip)[None])
            assert relative_error(ours, cache.load("latents", key)["latents"]) < 1e-4
        (conditioning,) = encoders.encode_text([item.captions[0]])
        theirs = cache.load("conditioning", item.conditioning[0])
        assert theirs.keys() == conditioning.keys() == parts
        assert all(relative_error(conditioning[part], theirs[part]) < 1e-4 for part in parts)
    assert sorted(item.captions[0] for item in job.items) == sorted(caption.strip() for caption in CAPTIONS)
    lengths = {cache.load("conditioning", item.conditioning[0])["hidden"].shape[1] for item in job.items}
    assert len(lengths) == 2, "the long caption should have more chunks than the others"


def test_latents_and_conditioning_of_the_host_are_the_trainers(trained: tuple[dict[str, Any], Path, Job]):
    check_encoded(trained[2], {"hidden"}, 128)


@pytest.mark.long
@pytest.mark.usefixtures("sdxl_alone")
def test_of_sdxl_too(comfy: ComfyServer):
    """A checkpoint of the stock loader, with its KL VAE and both text encoders."""
    add_random_sdxl(comfy.base)
    config = {"flip": True, "resolution": 128, "gradient_checkpointing": False}
    graph = {**checkpoint_loader(SDXL), **training(folder=difficult_pictures(comfy), **config)}
    check_encoded(jobs.load(runs(comfy) / planned_run(comfy, graph)), {"hidden", "pooled"}, 128)


def test_a_graph_and_its_settings_on_the_command_line_train_the_same_pictures(comfy: ComfyServer):
    graph = {**demo_loader(), **training(folder=difficult_pictures(comfy), trigger_word="zwx")}
    graph["data"]["inputs"]["excluded"] = "2.png\ngone.png"
    told: list[Any] = []
    job = jobs.load(runs(comfy) / planned_run(comfy, graph))
    again = planning.images(configs.loads(job.config.to_yaml()), told.append, told.append, lambda: False).job
    assert {Path(item.path).name for item in job.items} == {"0.png", "1.png", "3.png"}
    assert [described(item) for item in again.items] == [described(item) for item in job.items]
    # Of what makes a run another one, nothing differs but who encodes.
    assert {line.split(":")[0] for line in jobs.differences(job, again)} <= {"the VAE", "the text encoder"}
    assert "has no image 'gone.png', which is to be left out" in " ".join(str(one) for one in told)


def described(item: Any) -> tuple[Any, ...]:
    """What is trained of an item, without the keys of the cache."""
    return (item.id, Path(item.path), item.captions, item.size, item.bucket, item.repeats, item.held_out)


@pytest.mark.parametrize("strength", [0.8, 1.0, -0.5])
def test_applied_weights_are_pefts_merged_ones(
    comfy: ComfyServer, trained: tuple[dict[str, Any], Path, Job], strength: float
):
    from peft.tuners.lora import LoraLayer

    graph, run, job = trained
    wires = {"model": ["apply", 0]}
    seen = comfy.probe("weights", {**graph, "apply": apply_lora(strength)}, wires, keys=[])
    model: Any = adapted(run, job)
    base: Any = families.get("sd15").load_model(job.base.file, torch.float32)
    with adapters.strength(model, strength):
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.merge()
    merged = {n.replace(".base_layer", ""): t for n, t in model.state_dict().items() if ".lora_" not in n}
    layers = base.config["layers_per_block"]
    ours, plain = ldm.unet_state(merged, layers), ldm.unet_state(base.state_dict(), layers)
    assert len(seen.tensors) == sum(1 for _ in adapters.layers(model)) > 80
    for key, weight in seen.tensors.items():
        name = f"model.{key}"
        assert relative_error(ours[name], weight) < 1e-5
        assert relative_error(ours[name] - plain[name], weight - plain[name]) < 1e-2  # the change itself, for its sign


@pytest.mark.parametrize("strength", [0.0, 0.8])
def test_predictions_are_the_servers(comfy: ComfyServer, trained: tuple[dict[str, Any], Path, Job], strength: float):
    graph, run, job = trained
    wired = {**graph, "apply": apply_lora(strength)}
    seen = comfy.probe("unet", wired, {"model": ["apply", 0]}, seed=8, size=24, context=96, tokens=154)
    model, t = adapted(run, job), seen.tensors
    with torch.no_grad(), adapters.strength(model, strength):
        ours = families.get("sd15").predict(model, t["noisy"], t["timestep"].long(), {"hidden": t["hidden"]})
    assert relative_error(ours, t["out"]) < 1e-4


def test_generation_still_knows_prompt_weights(comfy: ComfyServer):
    captions = ["a (red:1.5) circle"]
    plain, weighted = (
        comfy.probe("text", demo_loader(), {"clip": CLIP}, captions=captions, weights=weights)
        for weights in (False, True)
    )
    assert not torch.equal(plain.tensors["0"], weighted.tensors["0"])


def adapted(run: Path, job: Job) -> torch.nn.Module:
    """The denoiser with the run's trained adapters, as PEFT has it."""
    family = families.get("sd15")
    model = family.load_model(job.base.file, torch.float32)
    config = job.config
    adapters.inject(
        model,
        lambda name, module: family.is_target(name, module, config.lora_targets),
        rank=config.lora_rank,
        alpha=config.alpha,
        seed=config.seed,
    )
    step = checkpoint.latest(run)
    assert step is not None
    adapters.load(model, checkpoint.load(run, step).adapter)
    return model
