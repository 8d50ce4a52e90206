"""SD1.5 in the trainer and in ComfyUI, on one checkpoint that the stock loader takes: the same numbers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import find_comfy
from tests.host.server import comfy_python
from tests.trainer.families.toy import relative
from trainer import adapters
from trainer.families import Encoders, Family, sd15, sd15_random

FAMILY = sd15.FAMILY
CAPTIONS = ["name_(series), a (photo:1.3)", "", "red " * 100, "\u521d\u97f3  \U0001f600 don't", "x" * 400]


def comfys(
    checkpoint: Path, captions: list[str], given: dict[str, torch.Tensor], lora: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What ComfyUI makes of a checkpoint, of inputs, and of both with a LoRA file; see comfy_side.py."""
    comfy = find_comfy()
    assert comfy is not None
    inputs, outputs = checkpoint.with_name("in.safetensors"), checkpoint.with_name("out.safetensors")
    given = given | {f"lora/{name}": tensor for name, tensor in lora.items()}
    save_file(given, inputs, metadata={"captions": json.dumps(captions)})
    script = Path(__file__).with_name("comfy_side.py")
    done = subprocess.run(
        [comfy_python(comfy), str(script), str(comfy), str(checkpoint), str(inputs), str(outputs)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=comfy,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # It only logs what it could not load, or could not apply.
    assert "not loaded" not in done.stderr, done.stderr[-4000:]
    return load_file(outputs)


def random_lora(family: Family, model: nn.Module, encoders: Encoders) -> dict[str, torch.Tensor]:
    """A LoRA file of rank 2 for all that can be trained of a base model, text encoders too."""
    generator = torch.Generator().manual_seed(7)
    layers = {
        family.export_key(name): module
        for name, module in model.named_modules()
        if family.is_target(name, module, "conv")
    }
    for part, text_model in encoders.text_models.items():
        for name, module in text_model.named_modules():
            if family.text_target(name, module):
                layers[family.export_key(name, part)] = module
    tensors = {}
    for key, module in layers.items():
        assert isinstance(module, nn.Linear | nn.Conv2d)
        shape = module.weight.shape
        up = (shape[0], 2, *[1] * (len(shape) - 2))
        tensors[f"{key}.lora_down.weight"] = torch.randn(2, *shape[1:], generator=generator) * 0.02
        tensors[f"{key}.lora_up.weight"] = torch.randn(up, generator=generator) * 0.02
        tensors[f"{key}.alpha"] = torch.tensor(3.0)
    return tensors


def wear(family: Family, model: nn.Module, encoders: Encoders, lora: dict[str, torch.Tensor]) -> None:
    """Puts a LoRA file onto the trainer's own models, as adapters."""
    adapters.from_file({"unet": model, **encoders.text_models}, lora, family.export_key)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The trainer's models, the inputs, and what ComfyUI made of them."""
    folder = tmp_path_factory.mktemp("p\u00e4rity \u6a21")
    checkpoint = sd15_random.write_random(folder / "small model.safetensors", full=False)
    model, encoders = FAMILY.load_model(checkpoint, torch.float32), FAMILY.load_encoders(checkpoint)
    hidden = encoders.encode_text(CAPTIONS)
    skipped = [
        FAMILY.load_encoders(checkpoint, clip_skip=skip).encode_text(CAPTIONS[:1])[0]["hidden"] for skip in (1, 2, 3)
    ]
    generator = torch.Generator().manual_seed(0)
    given = {
        "pixels": torch.rand(2, 3, 64, 96, generator=generator),
        "latents": torch.randn(1, 4, 8, 12, generator=generator) * 4,
        "noisy": torch.randn(2, 4, 16, 8, generator=generator),
        "timestep": torch.tensor([10, 800]),
        "hidden": torch.cat([hidden[0]["hidden"], hidden[1]["hidden"]]),
    }
    lora = random_lora(FAMILY, model, encoders)
    theirs = comfys(checkpoint, CAPTIONS, given, lora)
    worn = FAMILY.load_model(checkpoint, torch.float32), FAMILY.load_encoders(checkpoint)
    wear(FAMILY, *worn, lora)
    checkpoint.unlink()
    ours = {"model": model, "encoders": encoders, "hidden": hidden, "skipped": skipped, "worn": worn}
    return {**ours, "given": given, "theirs": theirs, "layers": sum(name.endswith(".alpha") for name in lora)}


@pytest.mark.host
def test_text(sides: dict[str, Any]) -> None:
    for i, entry in enumerate(sides["hidden"]):
        assert entry["hidden"].shape == sides["theirs"][f"hidden{i}"].shape
        assert relative(entry["hidden"], sides["theirs"][f"hidden{i}"]) < 1e-5
    for skip, tensor in enumerate(sides["skipped"], start=1):
        assert relative(tensor, sides["theirs"][f"skip{skip}"]) < 1e-5, skip


@pytest.mark.host
def test_latents_and_pixels(sides: dict[str, Any]) -> None:
    encoders, given = sides["encoders"], sides["given"]
    assert relative(encoders.encode_images(given["pixels"]), sides["theirs"]["latents"]) < 1e-5
    assert relative(encoders.decode_latents(given["latents"]), sides["theirs"]["pixels"]) < 1e-5


@pytest.mark.host
def test_prediction(sides: dict[str, Any]) -> None:
    given = sides["given"]
    with torch.no_grad():
        ours = FAMILY.predict(sides["model"], given["noisy"], given["timestep"], {"hidden": given["hidden"]})
    assert relative(ours, sides["theirs"]["prediction"]) < 1e-5


@pytest.mark.host
def test_schedule_and_sample_are_the_ksamplers(sides: dict[str, Any]) -> None:
    alphas = FAMILY.noise_schedule()
    # 1 - alpha loses digits where alpha is almost 1.
    torch.testing.assert_close(((1 - alphas) / alphas).sqrt(), sides["theirs"]["sigmas"], rtol=1e-4, atol=0)
    options = {"width": 64, "height": 128, "steps": 5, "guidance": 4.0, "seed": 5}
    ours = FAMILY.sample(sides["model"], *sides["hidden"][:2], **options)
    assert relative(ours, sides["theirs"]["sample"]) < 1e-4


@pytest.mark.host
def test_a_lora_of_everything_does_the_same(sides: dict[str, Any]) -> None:
    """Every exported key is patched, text encoders' too, and with them both sides say the same."""
    theirs, given = sides["theirs"], sides["given"]
    assert int(theirs["text_patches"]) == 12 * 6
    assert int(theirs["patches"]) == sides["layers"] - 12 * 6 > 0
    model, encoders = sides["worn"]
    with torch.no_grad():
        prediction = FAMILY.predict(model, given["noisy"], given["timestep"], given)
    assert relative(prediction, theirs["lora_prediction"]) < 1e-5
    assert relative(theirs["lora_prediction"], theirs["prediction"]) > 1e-3
    assert relative(encoders.encode_text(CAPTIONS[:1])[0]["hidden"], theirs["lora_hidden"]) < 1e-5
    assert relative(theirs["lora_hidden"], theirs["hidden0"]) > 1e-3


@pytest.mark.host
def test_scaled_fp8_is_what_comfyui_computes_with(tmp_path: Path) -> None:
    """The UNet's linear weights in fp8 with one scale each, as tools write them."""
    whole = sd15_random.write_random(tmp_path / "whole.safetensors", full=False)
    with safe_open(whole, framework="pt") as opened:
        metadata = opened.metadata()
    usual = load_file(whole)
    stored = {"model.diffusion_model.scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for name, tensor in usual.items():
        stored[name] = tensor
        if name.startswith("model.diffusion_model.") and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            stored[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + "scale_weight"] = scale
    scaled = tmp_path / "scaled.safetensors"
    save_file(stored, scaled, metadata=metadata)
    generator = torch.Generator().manual_seed(0)
    given = {
        "pixels": torch.rand(1, 3, 64, 64, generator=generator),
        "latents": torch.randn(1, 4, 8, 8, generator=generator),
        "noisy": torch.randn(2, 4, 16, 8, generator=generator),
        "timestep": torch.tensor([10, 800]),
        "hidden": torch.randn(2, 77, 768, generator=generator),
    }
    theirs = comfys(scaled, CAPTIONS[:2], given, {})["prediction"]
    with torch.no_grad():
        ours, before = (
            FAMILY.predict(FAMILY.load_model(path, torch.float32), given["noisy"], given["timestep"], given)
            for path in (scaled, whole)
        )
    assert relative(ours, theirs) < 1e-5
    assert relative(before, theirs) > 1e-3, "quantising costs something"
