"""SDXL: what is loaded is what the libraries load; the variants in which it is found; its smaller relatives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.trainer.families.toy import Toy, relative, rewrite
from trainer import families
from trainer.errors import BaseModelError
from trainer.families import ldm, sdxl
from trainer.weights import empty_weights

FAMILY = sdxl.FAMILY
UNET = "model.diffusion_model."
CLIP_L, CLIP_G = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
CAPTIONS = ["a photo of a cat", "", "a cat of " * 40]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def asset(part: str) -> dict[str, Any]:
    folder = Path(sdxl.__file__).parent / "assets" / "sdxl"
    return json.loads((folder / part / "config.json").read_text(encoding="utf-8"))


def empty_unet(config: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    with empty_weights():
        return UNet2DConditionModel.from_config(config)


@pytest.mark.usefixtures("offline")
def test_folder_and_file_are_the_same_model(toy_xl: Toy, toy_xl_file: Path, tmp_path: Path) -> None:
    folder = toy_xl.save_folder(tmp_path / "f\u00f6lder \u6a21")
    assert families.detect(folder) is families.detect(toy_xl_file) is FAMILY
    for path in (folder, toy_xl_file):
        assert same_weights(FAMILY.load_model(path, torch.float32), toy_xl.unet)
        encoders = FAMILY.load_encoders(path)
        assert same_weights(encoders.vae, toy_xl.vae)
        for name, model in toy_xl.texts.items():
            assert same_weights(encoders.text_models[name], model), name
    ours, theirs = FAMILY.load_encoders(folder), FAMILY.load_encoders(toy_xl_file)
    for a, b in zip(ours.encode_text(CAPTIONS), theirs.encode_text(CAPTIONS), strict=True):
        assert torch.equal(a["hidden"], b["hidden"])
        assert torch.equal(a["pooled"], b["pooled"])
    pixels = torch.rand(1, 3, 32, 64)
    assert torch.equal(ours.encode_images(pixels), theirs.encode_images(pixels))


def test_padding_and_pooling(toy_xl: Toy, toy_xl_file: Path) -> None:
    """CLIP-L is filled up with ends, CLIP-G with zeros; pooled is of the first end of the first chunk."""
    encoders = FAMILY.load_encoders(toy_xl_file)
    ids = encoders.tokenize("a cat")
    end = toy_xl.vocab["<|endoftext|>"]
    assert ids["text_encoder"][0, 3:].tolist() == [end] * 74
    assert ids["text_encoder_2"][0, 3:].tolist() == [end] + [0] * 73
    assert torch.equal(ids["text_encoder"][:, :4], ids["text_encoder_2"][:, :4])
    model = toy_xl.texts["text_encoder_2"]
    for caption in ("a cat", "cat " * 100, "a <|endoftext|> cat"):
        ids = encoders.tokenize(caption)["text_encoder_2"]
        with torch.no_grad():
            last = model.text_model(input_ids=ids[:1]).last_hidden_state
            pooled = model.text_projection(last[0, ids[0].tolist().index(end)])
        assert relative(encoders.encode_text([caption])[0]["pooled"][0], pooled) < 1e-5


def test_open_clip_names_are_the_librarys() -> None:
    """Ours of a whole CLIP-G: diffusers reads the very same model from them, and so do we."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = {**asset("text_encoder_2"), "hidden_size": 64, "intermediate_size": 96, "projection_dim": 64}
    config |= {"num_attention_heads": 4}
    model = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config | {"vocab_size": 600, "num_hidden_layers": 24}))
    state = {name: tensor.normal_() for name, tensor in model.state_dict().items()}
    names = ldm.open_clip_state(state)
    assert names["transformer.resblocks.23.attn.in_proj_weight"].shape == (192, 64)
    assert {"positional_embedding", "token_embedding.weight", "ln_final.bias", "text_projection"} <= names.keys()
    theirs = convert_open_clip_checkpoint(model, {CLIP_G + name: tensor for name, tensor in names.items()}, CLIP_G)
    ours = ldm.from_open_clip(names)
    level = "text_model."
    assert {(level + n if n != "text_projection.weight" else n) for n in ours} == state.keys()
    for name, tensor in state.items():
        assert torch.equal(ours[name.removeprefix(level)], tensor), name
        assert torch.equal(theirs[name], tensor), name


def test_names_of_a_full_size_unet() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = asset("unet")
    unet = empty_unet(config)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    names = ldm.unet_state(unet.state_dict(), config["layers_per_block"])
    assert len(names) == 1680
    for known in ("label_emb.0.2.bias", "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight", "out.2.bias"):
        assert UNET + known in names
    back = convert_ldm_unet_checkpoint(names, config=config)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in unet.state_dict().items()}
    counts = {
        which: sum(FAMILY.is_target(name, module, which) for name, module in unet.named_modules())
        for which in FAMILY.targets
    }
    assert counts == {"attention": 560, "linear": 722, "conv": 788}
    assert all(str(count) in FAMILY.targets[which] for which, count in counts.items())


def test_sizes_of_the_whole() -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with empty_weights():
        vae: Any = AutoencoderKL.from_config(asset("vae"))
        first: Any = CLIPTextModel(CLIPTextConfig.from_dict(asset("text_encoder")))
        second: Any = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(asset("text_encoder_2")))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (vae, first, second)]
    assert sizes == [83_653_863, 123_060_480, 694_659_840]
    assert vae.config.scaling_factor == FAMILY.latent_scale
    found = [FAMILY.text_target(name, module) for name, module in second.named_modules()]
    assert sum(found) == 32 * 6


RELATIVES: dict[str, dict[str, Any]] = {
    "sdxl": {},
    "ssd-1b": {
        "transformer_layers_per_block": [1, 2, 4],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "vega": {"transformer_layers_per_block": [1, 1, 2], "mid_block_type": "UNetMidBlock2D"},
    "koala-700m": {"layers_per_block": 1, "transformer_layers_per_block": [1, 2, 5], "mid_block_type": None},
    "koala-1b": {"layers_per_block": 1, "transformer_layers_per_block": [1, 2, 6]},
    "three levels of one width": {
        "block_out_channels": [320, 320, 320],
        "attention_head_dim": [5, 5, 5],
        "transformer_layers_per_block": [1, 1, 2],
    },
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_are_known_by_their_shapes(name: str) -> None:
    """Depths as ComfyUI lists them (``comfy.model_detection``); a single file says nothing but names and shapes."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = {**asset("unet"), **RELATIVES[name]}
    unet = empty_unet(config)
    names = ldm.unet_state(unet.state_dict(), config["layers_per_block"])
    layout = ldm.unet_layout({n.removeprefix(UNET): tuple(t.shape) for n, t in names.items()})
    again = empty_unet({**asset("unet"), **layout})
    back = convert_ldm_unet_checkpoint(names, config={**asset("unet"), **layout})
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in back.items()}
    assert back.keys() == unet.state_dict().keys()
    heads = {n: m.heads for n, m in unet.named_modules() if hasattr(m, "heads")}
    assert heads == {n: m.heads for n, m in again.named_modules() if hasattr(m, "heads")}
    if name == "sdxl":
        known = empty_unet(asset("unet")).config
        assert {key: layout[key] for key in layout if key not in ("reverse_transformer_layers_per_block",)} == {
            key: list(known[key]) if isinstance(known[key], tuple) else known[key]
            for key in layout
            if key not in ("reverse_transformer_layers_per_block",)
        }


def test_a_relative_predicts_what_its_library_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a description, read by its shapes alone."""
    from diffusers import UNet2DConditionModel

    config = {
        **asset("unet"),
        "block_out_channels": [64, 128],
        "attention_head_dim": [1, 2],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2],
        "reverse_transformer_layers_per_block": [[1, 2, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
        "layers_per_block": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: Any = UNet2DConditionModel.from_config(config)
    path = tmp_path / "relative.safetensors"
    save_file(ldm.unet_state(unet.state_dict(), 2), path)
    assert families.detect(path) is FAMILY
    assert same_weights(FAMILY.load_model(path, torch.float32), unet)


def test_denoiser_alone(toy_xl: Toy, toy_xl_file: Path, tmp_path: Path) -> None:
    def alone(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        return lambda state: {prefix + n.removeprefix(UNET): t for n, t in state.items() if n.startswith(UNET)}

    path = tmp_path / "unet alone.safetensors"
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    diffusers = {n: t.clone() for n, t in toy_xl.unet.state_dict().items()}
    for change in (alone(UNET), alone(""), lambda _: diffusers):
        rewrite(toy_xl_file, path, lambda state, change=change: change(state) | marks)
        assert same_weights(FAMILY.load_model(path, torch.float32), toy_xl.unet)
        assert families.prediction(path) == ("v_prediction", True)
    with pytest.raises(BaseModelError) as caught:
        FAMILY.load_encoders(path)
    assert caught.value.message == (
        f"{path} holds no text encoder (conditioner.embedders.0.transformer....): "
        "a denoiser alone cannot encode captions and pictures"
    )
    assert "choose the whole checkpoint" in caught.value.cure


def test_comfyui_marks_a_saved_checkpoint_twice(toy_xl_file: Path, tmp_path: Path) -> None:
    """``CheckpointSave`` of a v model writes ``v_pred`` among the UNet's weights and beside them."""
    marks = {"v_pred": torch.zeros(0), UNET + "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = rewrite(toy_xl_file, tmp_path / "saved.safetensors", lambda state: state | marks)
    assert families.prediction(path) == ("v_prediction", True)
    FAMILY.load_model(path, torch.float32)
    path = rewrite(toy_xl_file, tmp_path / "eps.safetensors", lambda state: state | {"ztsnr": torch.zeros(0)})
    assert families.prediction(path) == ("epsilon", False), "as in ComfyUI ztsnr alone says nothing"


def test_prediction_of_a_folder(toy_xl: Toy, tmp_path: Path) -> None:
    folder = toy_xl.save_folder(tmp_path / "v")
    assert families.prediction(folder) == ("epsilon", False)
    (folder / "scheduler").mkdir()
    settings = folder / "scheduler" / "scheduler_config.json"
    for config, expected in (
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, ("epsilon", False)),
        ({"prediction_type": "v_prediction"}, ("v_prediction", False)),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, ("v_prediction", True)),
    ):
        settings.write_text(json.dumps(config), encoding="utf-8")
        assert families.prediction(folder) == expected
        FAMILY.load_model(folder, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_stored_dtypes(toy_xl: Toy, tmp_path: Path, dtype: torch.dtype) -> None:
    path = toy_xl.save(tmp_path / "half.safetensors", dtype=dtype)
    loaded = FAMILY.load_model(path, torch.float32).state_dict()
    for name, tensor in toy_xl.unet.state_dict().items():
        assert torch.equal(loaded[name], tensor.to(dtype).float()), name
    encoders = FAMILY.load_encoders(path)
    assert {p.dtype for model in (encoders.vae, *encoders.text_models.values()) for p in model.parameters()} == {
        torch.float32
    }


def quantise(state: dict[str, torch.Tensor], end: str, note: bool) -> dict[str, torch.Tensor]:
    """As the tools do: linear weights of UNet and CLIP-L to fp8 with one scale each, the rest as it was."""
    result = {}
    for name, tensor in state.items():
        linear = name.startswith((UNET, CLIP_L)) and name.endswith(".weight") and tensor.ndim == 2
        result[name] = tensor
        if linear and "embedding" not in name:
            scale = tensor.abs().max() / 448
            result[name] = (tensor / scale).to(torch.float8_e4m3fn)
            result[name.removesuffix("weight") + end] = scale.float()
            if end == "scale_weight":
                result[name.removesuffix("weight") + "scale_input"] = torch.ones(())
            if note:
                text = b'{"format": "float8_e4m3fn"}'
                result[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    return result


@pytest.mark.parametrize(
    ("end", "note", "marks"),
    [
        ("scale_weight", False, (UNET + "scaled_fp8", "conditioner.embedders.0.transformer.scaled_fp8")),
        ("weight_scale", True, ()),
        ("weight_scale", False, ()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_fp8(
    toy_xl_file: Path, tmp_path: Path, end: str, note: bool, marks: tuple[str, ...], dtype: torch.dtype
) -> None:
    path = rewrite(
        toy_xl_file,
        tmp_path / "scaled.safetensors",
        lambda state: quantise(state, end, note) | {mark: torch.zeros(2).to(torch.float8_e4m3fn) for mark in marks},
    )
    assert families.detect(path) is FAMILY
    stored, usual = load_file(path), load_file(toy_xl_file)
    expected = {
        name: stored[name].float() * stored[name.removesuffix("weight") + end]
        if name.removesuffix("weight") + end in stored
        else tensor
        for name, tensor in usual.items()
    }
    changed = [name for name, tensor in usual.items() if not torch.equal(expected[name], tensor)]
    assert len(changed) > 50, "quantising costs something"
    whole = rewrite(toy_xl_file, tmp_path / "dequantised.safetensors", lambda _: expected)
    assert same_weights(FAMILY.load_model(path, dtype), FAMILY.load_model(whole, dtype))
    ours, theirs = FAMILY.load_encoders(path), FAMILY.load_encoders(whole)
    for name, model in ours.text_models.items():
        assert same_weights(model, theirs.text_models[name]), name
    assert relative(expected[changed[0]], usual[changed[0]]) < 0.05


def test_export_keys_have_the_level_that_transformers_dropped(toy_xl_file: Path) -> None:
    encoders = FAMILY.load_encoders(toy_xl_file)
    for name, part in (("text_encoder", "te1"), ("text_encoder_2", "te2")):
        model = encoders.text_models[name]
        keys = {FAMILY.export_key(n, name) for n, m in model.named_modules() if FAMILY.text_target(n, m)}
        assert len(keys) == 4 * 6
        assert f"lora_{part}_text_model_encoder_layers_0_self_attn_q_proj" in keys
        assert f"lora_{part}_text_model_encoder_layers_3_mlp_fc2" in keys
    assert FAMILY.export_key("down_blocks.1.attentions.0.proj_in") == "lora_unet_down_blocks_1_attentions_0_proj_in"


def test_damaged_text_encoders(toy_xl_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    for name, message in (
        (CLIP_L + "final_layer_norm.weight", "its text encoder lacks 1 weight"),
        (CLIP_G + "ln_final.weight", "its second text encoder lacks 1 weight (text_model.final_layer_norm.weight)"),
        (CLIP_G + "transformer.resblocks.0.attn.in_proj_bias", "its second text encoder lacks 3 weights"),
        (CLIP_G + "text_projection", "its second text encoder lacks 1 weight (text_projection.weight)"),
    ):
        rewrite(toy_xl_file, path, lambda state, name=name: {n: t for n, t in state.items() if n != name})
        with pytest.raises(BaseModelError) as caught:
            FAMILY.load_encoders(path)
        assert message in caught.value.message
    rewrite(toy_xl_file, path, lambda state: {n: t for n, t in state.items() if not n.startswith(CLIP_G)})
    with pytest.raises(BaseModelError) as caught:
        FAMILY.load_encoders(path)
    assert "holds no text encoder (conditioner.embedders.1.model....)" in caught.value.message


def test_what_files_carry_besides(toy_xl: Toy, toy_xl_file: Path, tmp_path: Path) -> None:
    """Positions, logit scale, a projection named as a layer: as found in the wild."""

    def old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        projection = state.pop(CLIP_G + "text_projection")
        more = {CLIP_G + "text_projection.weight": projection.T.contiguous(), CLIP_G + "logit_scale": torch.ones(())}
        return state | more | {CLIP_L + "embeddings.position_ids": torch.arange(77)[None]}

    encoders = FAMILY.load_encoders(rewrite(toy_xl_file, tmp_path / "old.safetensors", old))
    for name, model in toy_xl.texts.items():
        assert same_weights(encoders.text_models[name], model)
