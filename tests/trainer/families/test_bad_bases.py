"""Files and folders that are no base model of ours: refused by name, with a cure."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainer.families.toy import Toy, rewrite
from trainer import families
from trainer.errors import BaseModelError
from trainer.families import sd15

U = "model.diffusion_model."
BLOCK = U + "input_blocks.1.1."
KEY = BLOCK + "transformer_blocks.0.attn2.to_k.weight"
FIRST = U + "input_blocks.0.0.weight"


def refused(path: Path) -> BaseModelError:
    """The error of every way in: they agree."""
    errors = []
    for load in (families.detect, lambda p: sd15.FAMILY.load_denoiser(p, torch.float32), sd15.FAMILY.load_encoders):
        with pytest.raises(BaseModelError) as caught:
            load(path)
        errors.append(caught.value)
    assert len({str(error) for error in errors}) == 1
    assert str(path) in errors[0].message
    assert errors[0].cure
    return errors[0]


SHAPES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "lora": ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 320, 1, 1)}, "a LoRA"),
    "peft lora": ({"base_model.model.mid_block.attn1.to_q.lora_A.weight": (4, 320)}, "a LoRA"),
    "vae": ({"encoder.down.0.block.0.conv1.weight": (4, 4, 3, 3), "decoder.conv_in.weight": (4, 4, 3, 3)}, "a VAE"),
    "diffusers vae": ({"decoder.up_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)}, "a VAE"),
    "taesd": ({"taesd_decoder.1.weight": (64, 4, 3, 3)}, "a VAE"),
    "text encoder": ({"text_model.embeddings.token_embedding.weight": (8, 768)}, "a text encoder"),
    "language model": ({"model.embed_tokens.weight": (8, 64)}, "a text encoder or language model"),
    "embedding": ({"emb_params": (2, 768)}, "a textual inversion embedding"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "a ControlNet"),
    "inpainting": ({FIRST: (320, 9, 3, 3), KEY: (320, 768)}, "an inpainting UNet"),
    "edit": ({FIRST: (320, 8, 3, 3), KEY: (320, 768)}, "an edit or upscale UNet"),
    "sdxl": (
        {FIRST: (320, 4, 3, 3), KEY: (4, 2048), BLOCK + "proj_in.weight": (4, 4), U + "label_emb.0.0.weight": (4, 4)},
        "a Stable Diffusion XL model",
    ),
    "refiner": ({FIRST: (384, 4, 3, 3), KEY: (4, 1280), U + "label_emb.0.0.weight": (4, 4)}, "the SDXL refiner"),
    "sd2": ({FIRST: (320, 4, 3, 3), KEY: (4, 1024), BLOCK + "proj_in.weight": (4, 4)}, "a Stable Diffusion 2 model"),
    "flux": ({U + "double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a FLUX-like model"),
    "bare flux": ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a FLUX-like model"),
    "sd3": ({U + "joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "a Stable Diffusion 3 model"),
    "other unet": ({FIRST: (320, 4, 3, 3), KEY: (4, 640)}, r"a UNet of an unknown kind \(context width 640\)"),
    "unknown": ({"weights": (2, 2)}, r"of an unknown kind \(1 tensors, beginning with weights\)"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_other_kinds(case: str, write_shapes: Callable[..., Path]) -> None:
    shapes, message = SHAPES[case]
    error = refused(write_shapes(shapes))
    assert re.search(f"is {message}", error.message), error.message


BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"this is only a text that somebody renamed, long enough to have a header", "is not a safetensors file"),
    "short": (b"abc", "is not a safetensors file"),
    "page": (b"<!DOCTYPE html><html><body>Please log in</body></html>", "is a web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2132625150\n", "Git LFS pointer"),
    "gguf": (b"GGUF" + bytes(64), "is a GGUF file"),
    "old pickle": (pickle.dumps({"state_dict": {}}, protocol=2), "is a pickle"),
    "cut header": (struct.pack("<Q", 5000) + b'{"a":{"dtype":"F32","shape":[1]', "is cut off within its header"),
    "broken header": (struct.pack("<Q", 8) + b'{"a": 1x' + bytes(8), "has a broken safetensors header"),
    "strange header": (struct.pack("<Q", 8) + b'{"a": 1}' + bytes(8), "has a broken safetensors header"),
    "huge header": (struct.pack("<Q", 1 << 60) + b"{" + bytes(64), "is not a safetensors file"),
    "no tensors": (struct.pack("<Q", 2) + b"{}", "is a safetensors file without tensors"),
}


@pytest.mark.parametrize("case", BYTES)
def test_other_bytes(case: str, tmp_path: Path) -> None:
    data, message = BYTES[case]
    path = tmp_path / "m\u00f6del \u6a21\u578b.safetensors"
    path.write_bytes(data)
    error = refused(path)
    assert re.search(message, error.message), error.message


def test_new_pickles(tmp_path: Path) -> None:
    path = tmp_path / "v1-5-pruned.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(2)}}, path)
    assert zipfile.is_zipfile(path)
    error = refused(path)
    assert "is a pickle" in error.message
    assert "Save Checkpoint" in error.cure
    # The content counts, whatever the name.
    renamed = path.rename(tmp_path / "v1-5-pruned.safetensors")
    assert "is a pickle" in refused(renamed).message


def test_missing(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "n\u00f6 such.safetensors").message


@pytest.mark.parametrize("kept", [0.0002, 0.5, 0.999])
def test_cut_off(toy_file: Path, tmp_path: Path, kept: float) -> None:
    data = toy_file.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(len(data) * kept)])
    error = refused(path)
    assert "is cut off" in error.message
    assert "again" in error.cure


def test_too_long(toy_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(toy_file.read_bytes() + b"12345")
    assert "has 5 bytes more" in refused(path).message


def test_folders(toy: Toy, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "without model_index.json" in refused(empty).message
    (empty / "inside.safetensors").write_bytes(b"")
    assert "inside.safetensors" in refused(empty).cure
    folder = toy.save_folder(tmp_path / "f\u00f6lder")
    (folder / "model_index.json").write_text("{broken", encoding="utf-8")
    assert "cannot be read as JSON" in _any_error(folder)
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-10])
    assert "is cut off" in _any_error(folder)
    weights.rename(weights.with_suffix(".bin"))
    assert "only as a pickle" in _any_error(folder)
    weights.with_suffix(".bin").unlink()
    assert "holds no weights" in _any_error(folder)
    weights.write_bytes(data)
    config = folder / "unet" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(settings | {"layers_per_block": 1}), encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"its UNet the shape of 4 weights .* differs: \[128\], expected \[96\]"):
        sd15.FAMILY.load_denoiser(folder, torch.float32)
    config.write_text(json.dumps(settings), encoding="utf-8")
    sd15.FAMILY.load_denoiser(folder, torch.float32)
    (folder / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(BaseModelError, match=r"no tokenizer: vocab\.json missing"):
        sd15.FAMILY.load_encoders(folder)


@pytest.mark.parametrize(
    ("component", "names", "message"),
    [
        ("unet", {"conv_in.weight": (320, 4, 3, 3), "down_blocks.1.x": (1,), "add_embedding.x": (1,)}, "Diffusion XL"),
        ("unet", {"conv_in.weight": (320, 9, 3, 3), "down_blocks.0.x": (1,)}, "an inpainting UNet"),
        ("transformer", {"single_transformer_blocks.0.proj_mlp.weight": (4, 4)}, "a FLUX-like model"),
    ],
)
def test_folders_of_other_kinds(
    component: str, names: dict[str, tuple[int, ...]], message: str, tmp_path: Path, write_shapes: Callable[..., Path]
) -> None:
    folder = tmp_path / "f\u00f6lder"
    (folder / component).mkdir(parents=True)
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    (folder / component / "config.json").write_text("{}", encoding="utf-8")
    write_shapes(names).rename(folder / component / "diffusion_pytorch_model.safetensors")
    assert message in refused(folder).message


def test_damaged_parts(toy_file: Path, tmp_path: Path) -> None:
    def loses(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        return lambda state: {n: t for n, t in state.items() if n != name}

    path = tmp_path / "damaged.safetensors"
    rewrite(toy_file, path, loses(U + "time_embed.0.bias"))
    with pytest.raises(BaseModelError, match=r"its UNet lacks 1 weight \(time_embedding\.linear_1\.bias\)"):
        sd15.FAMILY.load_denoiser(path, torch.float32)
    name = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    rewrite(toy_file, path, loses(name))
    with pytest.raises(BaseModelError, match="its text encoder lacks 1 weight"):
        sd15.FAMILY.load_encoders(path)
    rewrite(toy_file, path, lambda state: state | {name: torch.zeros(7)})
    with pytest.raises(BaseModelError, match=r"differs: \[7\], expected \[48\]"):
        sd15.FAMILY.load_encoders(path)
    rewrite(toy_file, path, loses("first_stage_model.quant_conv.weight"))
    with pytest.raises(BaseModelError, match=r"its VAE lacks 1 weight \(quant_conv\.weight\)"):
        sd15.FAMILY.load_encoders(path)
    rewrite(toy_file, path, lambda state: {n: t for n, t in state.items() if "first_stage" not in n})
    with pytest.raises(BaseModelError, match="holds no VAE"):
        sd15.FAMILY.load_encoders(path)
    rewrite(toy_file, path, lambda state: state | {U + "out.2.weight_scale": torch.ones(1)})
    with pytest.raises(BaseModelError, match=r"quantised weights .*weight_scale"):
        sd15.FAMILY.load_denoiser(path, torch.float32)


def test_broken_description(toy_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "described.safetensors"
    for text, message in (("{", "is no JSON"), ("{}", "lacks 'unet'")):
        save_file(load_file(toy_file), path, metadata={sd15.DESCRIPTION: text})
        with pytest.raises(BaseModelError, match=message):
            sd15.FAMILY.load_denoiser(path, torch.float32)


def _any_error(path: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        families.detect(path)
    assert caught.value.cure
    return caught.value.message
