"""The export law: what a file does to a weight is what was trained, by our arithmetic, PEFT's and diffusers'."""

from __future__ import annotations

import errno
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from trainer import adapters, export, families, metadata
from trainer.adapters.layers import peft_layers
from trainer.config import parse
from trainer.errors import ExportError
from trainer.job import Base, Item, Job

FAMILY = families.get("sd15")
Tensors = dict[str, torch.Tensor]


def adapted(base: Path, which: str = "conv", *, rank: int = 4, alpha: float = 4.0, seed: int = 0) -> nn.Module:
    """The toy UNet with a LoRA that changes something."""
    model = FAMILY.load_model(base, torch.float32)
    adapters.inject(model, lambda n, m: FAMILY.is_target(n, m, which), rank=rank, alpha=alpha, seed=seed)
    generator = torch.Generator().manual_seed(1)
    for layer in adapters.layers(model):
        layer.up.data.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)
    return model


def lora_of(model: nn.Module) -> Tensors:
    return adapters.exported(model, FAMILY.export_key)


def predict(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noisy, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        return FAMILY.predict(model, noisy, torch.tensor([20, 800]), {"hidden": hidden})


def job(base: Path = Path("/b\u00e4se \u6a21\u578b.safetensors"), **config: Any) -> Job:
    def item(number: int, *captions: str) -> Item:
        return Item(
            f"{number:032x}",
            f"/d\u00e4ta/style/{number}.png",
            captions,
            (80, 80),
            (64, 64),
            2,
            "l",
            ("c",) * len(captions),
        )

    return Job(
        parse({"output_dir": "/out/my st\u00fcle", "lora_rank": 4, **config}), Base(base, "sd15", "c0ffee"),
        (item(0, "a house, \u6c34\u58a8"), item(1, "a house,  red sky")), (), "e", Path("/cache"),
    )  # fmt: skip


# --- the law


@pytest.mark.parametrize("alpha", [4.0, 1.0, 6.0])
@pytest.mark.parametrize("which", ["attention", "linear", "conv"])
def test_a_file_changes_a_weight_by_what_peft_merges_at_any_strength(
    tiny_base: Path, tmp_path: Path, which: str, alpha: float
) -> None:
    model = adapted(tiny_base, which, alpha=alpha)
    path = tmp_path / "l\u00f6ra \u6c34.safetensors"
    export.write(path, lora_of(model), {})
    file, _ = export.read(path)
    base = {n.removesuffix(".base_layer"): m for n, m in model.named_modules() if n.endswith(".base_layer")}
    kinds = set()
    for strength in (0.8, 1.0):
        with adapters.strength(model, strength):
            for name, layer in peft_layers(model):
                key = FAMILY.export_key(name)
                up, down = file[f"{key}.lora_up.weight"], file[f"{key}.lora_down.weight"]
                # ComfyUI's arithmetic (weight_adapter/lora.py): strength * alpha / rank * mm(up, down), reshaped.
                weight: torch.Tensor = base[name].weight.detach().clone()  # type: ignore[union-attr,assignment]
                scale = strength * file[f"{key}.alpha"].item() / down.shape[0]
                patch = scale * torch.mm(up.flatten(1), down.flatten(1)).reshape(weight.shape)
                change = layer.get_delta_weight("default")  # type: ignore[attr-defined]
                assert (patch - change).abs().max() <= 1e-5 * change.abs().max()
                layer.merge()
                patched = weight + patch
                assert (base[name].weight - patched).abs().max() <= 1e-5 * patched.abs().max()  # type: ignore[operator,union-attr]
                layer.unmerge()
                kinds.add(tuple(weight.shape[2:]))
    assert kinds == {"attention": {()}, "linear": {(), (1, 1)}, "conv": {(), (1, 1), (3, 3)}}[which]


@pytest.mark.parametrize("which", ["linear", "conv"])
def test_diffusers_reads_the_file_and_predicts_the_same(tiny_base: Path, tmp_path: Path, which: str) -> None:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    model = adapted(tiny_base, which, alpha=2.0)
    path = tmp_path / "lora.safetensors"
    export.write(path, lora_of(model), metadata.header(job(), 10))

    other = FAMILY.load_model(tiny_base, torch.float32)
    before = predict(other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(str(path))  # type: ignore[misc]
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, network_alphas=alphas, unet=other)
    found = predict(other)
    assert torch.allclose(found, predict(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)


def test_every_layer_has_its_three_tensors_in_kohya_s_naming(tiny_base: Path) -> None:
    model = adapted(tiny_base, rank=3, alpha=1.5)
    lora = lora_of(model)
    names = [layer.name for layer in adapters.layers(model)]
    parts = ("lora_down.weight", "lora_up.weight", "alpha")
    assert list(lora) == [f"lora_unet_{name.replace('.', '_')}.{part}" for name in names for part in parts]
    assert {tensor.dtype for tensor in lora.values()} == {torch.float32}
    assert all(lora[key].shape == () and lora[key] == 1.5 for key in lora if key.endswith(".alpha"))


def test_what_is_exported_is_a_copy_of_the_moment(tiny_base: Path) -> None:
    model = adapted(tiny_base, "attention")
    lora = lora_of(model)
    kept = {name: tensor.clone() for name, tensor in lora.items()}
    for parameter in adapters.parameters(model).values():
        parameter.data.zero_()
    assert all(torch.equal(lora[name], kept[name]) for name in kept)


def test_the_norm_of_the_change_is_that_of_the_weights(tiny_base: Path) -> None:
    model = adapted(tiny_base, alpha=2.0)
    expected = sum(float(layer.change().double().square().sum()) for layer in adapters.layers(model)) ** 0.5
    lora = lora_of(model)
    assert export.change_norm(lora) == pytest.approx(expected, rel=1e-6)
    assert export.check(lora) == pytest.approx(export.change_norm(lora))
    doubled = {name: tensor * 2 if name.endswith("lora_up.weight") else tensor for name, tensor in lora.items()}
    assert export.change_norm(doubled) == pytest.approx(2 * expected, rel=1e-6)


# --- files


def test_the_same_lora_is_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{number}.safetensors"
        export.write(path, lora_of(adapted(tiny_base, seed=seed)), metadata.header(job(), 10))
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_what_is_not_finite_is_no_file(tiny_base: Path, tmp_path: Path, part: str, value: float) -> None:
    lora = lora_of(adapted(tiny_base, "attention"))
    name = next(key for key in lora if key.endswith(part))
    lora[name] = lora[name].clone().fill_(value)
    with pytest.raises(ExportError) as error:
        export.write(tmp_path / "x.safetensors", lora, {})
    assert error.value.message == f"the LoRA is not finite ({name})"
    assert "mixed_precision: bf16 or no" in error.value.cure
    assert list(tmp_path.iterdir()) == []


def test_a_lora_without_effect_is_no_file(tiny_base: Path, tmp_path: Path) -> None:
    model = FAMILY.load_model(tiny_base, torch.float32)
    adapters.inject(model, lambda n, m: FAMILY.is_target(n, m, "linear"), rank=4, alpha=4, seed=0)
    with pytest.raises(ExportError, match="the LoRA changes nothing: the change of every weight is zero") as error:
        export.write(tmp_path / "x.safetensors", lora_of(model), {})
    assert "check learning_rate" in error.value.cure
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match="changes nothing"):
        export.check({})


def test_a_change_that_overflows_is_no_file(tiny_base: Path, tmp_path: Path) -> None:
    lora = {name: tensor * 1e30 for name, tensor in lora_of(adapted(tiny_base, "attention")).items()}
    with pytest.raises(ExportError, match="the LoRA's change of the weights is not finite"):
        export.write(tmp_path / "x.safetensors", {name: t.to(torch.float64) ** 6 for name, t in lora.items()}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_small_change_is_a_change(tiny_base: Path) -> None:
    lora = lora_of(adapted(tiny_base, "attention"))
    tiny = {name: tensor * 1e-12 if name.endswith("lora_up.weight") else tensor for name, tensor in lora.items()}
    assert 0 < export.check(tiny) == pytest.approx(1e-12 * export.check(lora), rel=1e-3)


def test_a_full_disk_is_said_and_an_older_file_stays(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = lora_of(adapted(tiny_base, "attention"))
    path = tmp_path / "x.safetensors"
    export.write(path, lora, {})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.files.os.fsync", full)
    with pytest.raises(ExportError, match=r"cannot write .*x\.safetensors: No space left") as error:
        export.write(path, lora, {"a": "b"})
    assert "free some space" in error.value.cure
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_reads_back_differently_is_an_error(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = lora_of(adapted(tiny_base, "attention"))
    changed = {name: tensor + 1e-6 for name, tensor in lora.items()}
    monkeypatch.setattr(export, "read", lambda path: (changed, {}))
    with pytest.raises(ExportError, match="was written, but reads back differently"):
        export.write(tmp_path / "x.safetensors", lora, {})


@pytest.mark.parametrize("content", [None, b"", b"half a file", b"\x10\x00\x00\x00\x00\x00\x00\x00{"])
def test_what_is_no_lora_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "\u6c34.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"\u6c34\.safetensors cannot be read as a LoRA: "):
        export.read(path)


def test_what_was_read_does_not_hold_the_file(tiny_base: Path, tmp_path: Path) -> None:
    """A mapped file would change under a reader, and could not be replaced on Windows."""
    path = tmp_path / "x.safetensors"
    lora = lora_of(adapted(tiny_base, "attention"))
    export.write(path, lora, {"a": "b"})
    found, header = export.read(path)
    with path.open("r+b") as file:  # in place, as nobody should
        file.write(b"\xff" * path.stat().st_size)
    assert header == {"a": "b"}
    assert all(torch.equal(found[name], lora[name]) for name in lora)


# --- header


def test_the_header_tells_what_was_trained(tiny_base: Path, tmp_path: Path) -> None:
    told = job(lora_alpha=2, trigger_word="zwx", learning_rate=1e-4, resolution=256, seed=7, epochs=3)
    path = tmp_path / "x.safetensors"
    export.write(path, lora_of(adapted(tiny_base, "attention")), metadata.header(told, 60))
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    expected = {
        "ss_base_model_version": "sd_v1", "ss_sd_model_name": "b\u00e4se \u6a21\u578b.safetensors",
        "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0",
        "ss_output_name": "my st\u00fcle", "ss_learning_rate": "0.0001", "ss_lr_scheduler": "cosine",
        "ss_num_train_images": "4", "ss_epoch": "3", "ss_steps": "60", "ss_seed": "7", "ss_resolution": "(256, 256)",
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.title": "my st\u00fcle",
        "modelspec.prediction_type": "epsilon", "modelspec.trigger_phrase": "zwx", "darkroom.run": told.run_id,
        "darkroom.base": "c0ffee",
    }  # fmt: skip
    assert {name: header[name] for name in expected} == expected
    assert json.loads(header["ss_tag_frequency"]) == {"style": {"a house": 2, "red sky": 1, "\u6c34\u58a8": 1}}
    assert json.loads(header["darkroom.config"]) == told.config.identity()
    # Neither dates nor the paths of a machine.
    assert not any("/out" in value or "/d\u00e4ta" in value for value in header.values())


def test_a_header_is_the_same_every_time_and_without_a_trigger_word_says_so() -> None:
    assert metadata.header(job(), 5) == metadata.header(job(), 5)
    assert "modelspec.trigger_phrase" not in metadata.header(job(), 5)
    assert metadata.header(job(), 5)["ss_network_alpha"] == "4.0"
