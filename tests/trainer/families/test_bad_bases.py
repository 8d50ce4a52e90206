"""Files and folders that are no base model of ours: refused by name, with a cure."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer.families.toy import Toy, rewrite
from trainer import families
from trainer.errors import BaseModelError
from trainer.families import sd15, sdxl

U = "model.diffusion_model."
BLOCK = U + "input_blocks.1.1."
KEY = BLOCK + "transformer_blocks.0.attn2.to_k.weight"
FIRST = U + "input_blocks.0.0.weight"


def refused(path: Path) -> BaseModelError:
    """The error of every way in: they agree."""
    errors = []
    loads: list[Callable[[Path], Any]] = [families.detect, families.prediction]
    for family in families.all_families():
        loads += [partial(family.load_model, dtype=torch.float32), family.load_encoders]
    for load in loads:
        with pytest.raises(BaseModelError) as caught:
            load(path)
        errors.append(caught.value)
    assert len({error.message for error in errors}) == 1
    assert str(path) in errors[0].message
    assert errors[0].cure
    return errors[0]


LORA = "a LoRA, not a base model"
VAE = "a VAE, not a base model"
XL = {BLOCK + "proj_in.weight": (4, 4), KEY: (4, 2048), U + "label_emb.0.0.weight": (4, 2816)}
SHAPES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "lora": ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 320, 1, 1)}, LORA),
    "peft lora": ({"base_model.model.mid_block.attn1.to_q.lora_A.weight": (4, 320)}, LORA),
    "lokr": ({"lora_unet_mid_block_attentions_0_proj_in.lokr_w1_a": (4, 4)}, LORA),
    "oft": ({"oft_unet_mid_block_attentions_0_proj_in.oft_blocks": (4, 4, 4)}, LORA),
    "vae": ({"encoder.down.0.block.0.conv1.weight": (4, 4, 3, 3), "decoder.conv_in.weight": (4, 4, 3, 3)}, VAE),
    "diffusers vae": ({"decoder.up_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)}, VAE),
    "taesd": ({"taesd_decoder.1.weight": (64, 4, 3, 3)}, VAE),
    "text encoder": (
        {"text_model.embeddings.token_embedding.weight": (8, 768)},
        "a text encoder or language model, not a base model of images",
    ),
    "language model": (
        {"model.embed_tokens.weight": (8, 64)},
        "a text encoder or language model, not a base model of images",
    ),
    "embedding": ({"emb_params": (2, 768)}, "a textual inversion embedding, not a base model"),
    "xl embedding": ({"clip_g": (2, 1280), "clip_l": (2, 768)}, "a textual inversion embedding, not a base model"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "a ControlNet, not a base model"),
    "ip adapter": ({"ip_adapter.1.to_k_ip.weight": (4, 4)}, "an IP-Adapter, not a base model"),
    "animatediff": (
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (4,)},
        "a motion module (AnimateDiff), not a base model",
    ),
    "upscaler": ({"conv_first.weight": (64, 3, 3, 3)}, "an upscaler, not a base model"),
    "inpainting": (
        {FIRST: (320, 9, 3, 3), KEY: (320, 768)},
        "a Stable Diffusion 1 model for inpainting (9 input channels)",
    ),
    "edit": (
        {FIRST: (320, 8, 3, 3), KEY: (320, 768)},
        "a Stable Diffusion 1 model for editing, upscaling or video (8 input channels)",
    ),
    "xl inpainting": (
        {FIRST: (320, 9, 3, 3), **XL},
        "a Stable Diffusion XL model for inpainting (9 input channels)",
    ),
    "xl edit": (
        {FIRST: (320, 8, 3, 3), **XL},
        "a Stable Diffusion XL model for editing, upscaling or video (8 input channels)",
    ),
    "kolors": (
        {FIRST: (320, 4, 3, 3), **XL, U + "label_emb.0.0.weight": (4, 5632)},
        "a Kolors model (SDXL's UNet on another text encoder)",
    ),
    "other xl": (
        {FIRST: (320, 4, 3, 3), **XL, U + "label_emb.0.0.weight": (4, 4)},
        "a UNet of an unknown kind (context width 2048, further embedding 4)",
    ),
    "refiner": ({FIRST: (384, 4, 3, 3), KEY: (4, 1280), U + "label_emb.0.0.weight": (4, 2560)}, "the SDXL refiner"),
    "sd2": ({FIRST: (320, 4, 3, 3), KEY: (4, 1024), BLOCK + "proj_in.weight": (4, 4)}, "a Stable Diffusion 2 model"),
    "flux": ({U + "double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a FLUX-like model"),
    "bare flux": ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a FLUX-like model"),
    "sd3": ({U + "joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "a Stable Diffusion 3 model"),
    "lumina": ({U + "cap_embedder.0.weight": (4, 4)}, "a Lumina or Z-Image model"),
    "wan": ({"patch_embedding.weight": (4, 16, 1, 2, 2)}, "a Wan-like video model"),
    "cascade": ({"clip_txt_mapper.weight": (4, 4)}, "a Stable Cascade model"),
    "pixart": ({"adaln_single.linear.weight": (4, 4)}, "a PixArt-like model"),
    "qwen": (
        {"transformer_blocks.0.attn.add_q_proj.weight": (4, 4)},
        "a diffusion transformer (SD3, Qwen-Image and the like)",
    ),
    "other unet": ({FIRST: (320, 4, 3, 3), KEY: (4, 640)}, "a UNet of an unknown kind (context width 640)"),
    "unknown": ({"weights": (2, 2)}, "of an unknown kind (1 tensors, beginning with weights)"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_other_kinds(case: str, write_shapes: Callable[..., Path]) -> None:
    shapes, message = SHAPES[case]
    path = write_shapes(shapes)
    assert refused(path).message == f"{path} is {message}"


def edm(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in {FIRST: (320, 4, 3, 3), **XL}.items()} | more


@pytest.mark.parametrize(
    ("marks", "named"),
    [
        (("edm_mean", "edm_std"), "edm_mean"),
        (("edm_vpred.sigma_max", "edm_vpred.sigma_min"), "edm_vpred.sigma_max"),
    ],
)
def test_edm(marks: tuple[str, ...], named: str, tmp_path: Path) -> None:
    path = tmp_path / "edm \u98ce\u683c.safetensors"
    save_file(edm(**{mark: torch.ones(1) for mark in marks}), path)
    # Only SDXL's loaders get so far; SD1.5's say that it is SDXL.
    for load in (families.detect, families.prediction, sdxl.FAMILY.load_encoders):
        with pytest.raises(BaseModelError) as caught:
            load(path)
        assert caught.value.message == (
            f"{path} is an EDM model ({named}); only epsilon and v-prediction can be trained"
        )


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"prediction_type": "flow_prediction"}, "predicts 'flow_prediction'"),
        (
            {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "epsilon"},
            "is an EDM model (EDMDPMSolverMultistepScheduler)",
        ),
    ],
)
def test_folders_that_predict_something_else(
    scheduler: dict[str, str], message: str, toy_xl: Toy, tmp_path: Path
) -> None:
    folder = toy_xl.save_folder(tmp_path / "f\u00f6lder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    for load in (families.detect, families.prediction, sdxl.FAMILY.load_encoders):
        with pytest.raises(BaseModelError) as caught:
            load(folder)
        assert caught.value.message == (
            f"{folder} {message} by its scheduler_config.json; only epsilon and v-prediction can be trained"
        )


NOTE = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
FP8 = torch.zeros(4, 2048).to(torch.float8_e4m3fn)
SCALE = KEY.replace(".weight", ".weight_scale")
QUANTISED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "nvfp4": ({KEY.replace(".weight", ".comfy_quant"): NOTE}, f"{KEY[:-7]}.comfy_quant (nvfp4)"),
    "two scales": ({KEY + "_scale_2": torch.ones(1)}, f"{KEY}_scale_2 (nvfp4)"),
    "bitsandbytes": ({KEY + ".absmax": torch.ones(4)}, f"{KEY}.absmax (bitsandbytes)"),
    "8 bit": ({KEY.replace(".weight", ".SCB"): torch.ones(4)}, f"{KEY[:-7]}.SCB (bitsandbytes, 8 bit)"),
    "integers": ({KEY: torch.zeros(4, 2048, dtype=torch.int8)}, f"{KEY} is of type I8"),
    "by rows": ({KEY: FP8, SCALE: torch.ones(4, 1)}, f"{SCALE} has the shape [4, 1]; one number is understood"),
    "no fp8": ({SCALE: torch.ones(1)}, f"{KEY} is of type F32, not fp8, and yet has a scale"),
    "no weight": ({U + "x.scale_weight": torch.ones(1)}, f"{U}x.scale_weight is the scale of no weight"),
    "no note": (
        {KEY.replace(".weight", ".comfy_quant"): torch.zeros(3, dtype=torch.uint8)},
        f"{KEY[:-7]}.comfy_quant (not understood)",
    ),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_quantised(case: str, tmp_path: Path) -> None:
    changes, message = QUANTISED[case]
    path = tmp_path / "quantised.safetensors"
    save_file(edm(**changes), path)
    for load in (families.detect, families.prediction, sdxl.FAMILY.load_encoders):
        with pytest.raises(BaseModelError) as caught:
            load(path)
        assert caught.value.message == f"{path} holds quantised weights: {message}"
        assert "fp16" in caught.value.cure


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"layers": {"a.b": {"format": "mxfp8"}}}', "a.b (mxfp8)"),
        ("{", "_quantization_metadata in its header is not understood"),
    ],
)
def test_quantised_by_the_header(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "quantised.safetensors"
    save_file(edm(), path, metadata={"_quantization_metadata": text})
    with pytest.raises(BaseModelError) as caught:
        families.detect(path)
    assert caught.value.message == f"{path} holds quantised weights: {message}"


OLD_PICKLE = "is a pickle (an old PyTorch .ckpt / .pt / .bin file), not a safetensors file"
BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty (0 bytes)"),
    "text": (b"this is only a text that somebody renamed, long enough to have a header", "is not a safetensors file"),
    "short": (b"abc", "is not a safetensors file"),
    "page": (b"<!DOCTYPE html><html><body>Please log in</body></html>", "is a web page, not a safetensors file"),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2132625150\n",
        "is only a Git LFS pointer, not the weights",
    ),
    "gguf": (b"GGUF" + bytes(64), "is a GGUF file: its weights are quantised"),
    "old pickle": (pickle.dumps({"state_dict": {}}, protocol=2), OLD_PICKLE),
    "cut header": (
        struct.pack("<Q", 5000) + b'{"a":{"dtype":"F32","shape":[1]',
        "is cut off within its header (39 bytes)",
    ),
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
    assert error.message == f"{path} {message}"


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
        sd15.FAMILY.load_model(folder, torch.float32)
    config.write_text(json.dumps(settings), encoding="utf-8")
    sd15.FAMILY.load_model(folder, torch.float32)
    (folder / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(BaseModelError, match=r"no tokenizer: vocab\.json missing"):
        sd15.FAMILY.load_encoders(folder)


@pytest.mark.parametrize(
    ("component", "names", "message"),
    [
        (
            "unet",
            {
                "conv_in.weight": (384, 4, 3, 3),
                "down_blocks.1.attn2.to_k.weight": (4, 1280),
                "add_embedding.linear_1.weight": (4, 2560),
            },
            "the SDXL refiner",
        ),
        (
            "unet",
            {"conv_in.weight": (320, 9, 3, 3), "down_blocks.0.x": (1,)},
            "a UNet for inpainting (9 input channels)",
        ),
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
        sd15.FAMILY.load_model(path, torch.float32)
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


def test_broken_description(toy_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "described.safetensors"
    for text, message in (("{", "is no JSON"), ("{}", "lacks 'unet'")):
        save_file(load_file(toy_file), path, metadata={sd15.DESCRIPTION: text})
        with pytest.raises(BaseModelError, match=message):
            sd15.FAMILY.load_model(path, torch.float32)


def _any_error(path: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        families.detect(path)
    assert caught.value.cure
    return caught.value.message
