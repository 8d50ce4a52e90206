"""LoRA files of every naming, layer by layer."""

from __future__ import annotations

import pytest
import torch

from trainer import lorafile
from trainer.errors import LoraFileError
from trainer.families import ldm
from trainer.lorafile import FileLayer, kohya_key

DOTTED = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"
PROCESSOR = DOTTED.replace("to_q", "processor.to_q")
FLAT = DOTTED.replace(".", "_")
TO_Q = f"lora_unet_{FLAT}"
ORIGINAL = "lora_unet_input_blocks_2_1_transformer_blocks_0_attn1_to_q"


def lora(*names: str, rank: int = 2) -> dict[str, torch.Tensor]:
    """Tensors for `down` and `up` under two names, of a weight [3, 4]."""
    return dict(zip(names, (torch.ones(rank, 4), torch.ones(3, rank)), strict=True))


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"{TO_Q}.lora_down.weight", f"{TO_Q}.lora_up.weight"),
        (f"unet.{DOTTED}.lora_A.weight", f"unet.{DOTTED}.lora_B.weight"),
        (f"unet.{DOTTED}.lora_A.default.weight", f"unet.{DOTTED}.lora_B.default.weight"),
        (f"unet.{DOTTED}.lora.down.weight", f"unet.{DOTTED}.lora.up.weight"),
        (f"unet.base_model.model.{DOTTED}.lora_A.weight", f"unet.base_model.model.{DOTTED}.lora_B.weight"),
        (f"base_model.model.{DOTTED}.lora_A.weight", f"base_model.model.{DOTTED}.lora_B.weight"),
        (f"unet.{PROCESSOR}_lora.down.weight", f"unet.{PROCESSOR}_lora.up.weight"),
        (f"{PROCESSOR}_lora.down.weight", f"{PROCESSOR}_lora.up.weight"),
        (f"{ORIGINAL}.lora_down.weight", f"{ORIGINAL}.lora_up.weight"),
        (f"lycoris_{FLAT}.lora_down.weight", f"lycoris_{FLAT}.lora_up.weight"),
    ],
)
def test_one_layer_by_many_names(down: str, up: str) -> None:
    (layer,) = lorafile.parse(lora(down, up)).values()
    assert layer.key == TO_Q
    assert layer.method == "lora"
    assert (layer.rank, layer.alpha, layer.scale) == (2, None, 1.0)
    assert torch.equal(layer.change(), torch.full((3, 4), 2.0, dtype=torch.float64))
    assert layer.norm() == pytest.approx(48**0.5)
    assert list(layer.written()) == [f"{TO_Q}.lora_down.weight", f"{TO_Q}.lora_up.weight"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj", "text_model_encoder_layers_3_self_attn_q_proj"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "text_model_encoder_layers_0_mlp_fc1"),
    ],
)
def test_text_encoders_are_numbered_where_there_are_two(name: str, key: str) -> None:
    one = lora(f"{name}.lora_linear_layer.down.weight", f"{name}.lora_linear_layer.up.weight")
    assert list(lorafile.parse(one)) == [f"lora_te_{key}"]
    second = {n.replace("text_encoder.", "text_encoder_2."): t for n, t in one.items()}
    assert list(lorafile.parse(one | second)) == [f"lora_te1_{key}", f"lora_te2_{key}"]


def test_the_output_of_attention_has_its_number() -> None:
    assert kohya_key("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out").endswith("to_out_0")


def test_the_original_code_s_names_are_those_of_diffusers() -> None:
    """Of every layer of SD1.5's UNet, by the house's own table for writing checkpoints."""
    names = [n.removesuffix(".weight") for n in full_unet() if n.endswith(".weight")]
    state = {f"{name}.weight": torch.tensor(index) for index, name in enumerate(names)}
    back = {int(tensor): name for name, tensor in ldm.unet_state(state, 2).items()}
    adaptable = [n for n in names if "norm" not in n]
    assert len(adaptable) > 250
    for index, name in enumerate(names):
        if name in adaptable:
            original = back[index].removeprefix(ldm.UNET).removesuffix(".weight")
            assert kohya_key("lora_unet_" + original.replace(".", "_")) == "lora_unet_" + name.replace(".", "_")


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("input_blocks_8_1_transformer_blocks_9_norm1", "down_blocks_2_attentions_1_transformer_blocks_9_norm1"),
        ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
        ("middle_block_2_in_layers_2", "mid_block_resnets_1_conv1"),
        ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("output_blocks_5_2_conv", "up_blocks_1_upsamplers_0_conv"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("output_blocks_8_0_skip_connection", "up_blocks_2_resnets_2_conv_shortcut"),
        ("label_emb_0_2", "add_embedding_linear_2"),
    ],
)  # fmt: skip
def test_the_original_code_s_names_in_sdxl(original: str, diffusers: str) -> None:
    assert kohya_key(f"lora_unet_{original}") == f"lora_unet_{diffusers}"
    assert kohya_key(f"lora_unet_{diffusers}") == f"lora_unet_{diffusers}"


def full_unet() -> dict[str, torch.Tensor]:
    """The names of SD1.5's UNet, whose shape is the default of diffusers' class but for one number."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768).state_dict()


# --- what is no LoRA


def layer(**parts: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {f"x.{name.replace('__', '.')}": torch.ones(shape) for name, shape in parts.items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "f.safetensors has no layers in it"),
        (
            {"model.weight": torch.ones(1), **lora("x.lora_down.weight", "x.lora_up.weight")},
            "f.safetensors has 1 tensors that are of no LoRA, DoRA, LoHa or LoKr: model.weight",
        ),
        (
            layer(oft_blocks=(2, 4, 4), alpha=(), a1__weight=(2, 2)),
            "f.safetensors has 3 tensors that are of no LoRA, DoRA, LoHa or LoKr: x.a1.weight, x.alpha, x.oft_blocks",
        ),
        (
            layer(lora_down__weight=(2, 4)),
            "f.safetensors has 1 tensors that are of no LoRA, DoRA, LoHa or LoKr: x.lora_down.weight",
        ),
        (
            layer(hada_w1_a=(3, 2), hada_w1_b=(2, 4), hada_w2_a=(3, 2), hada_w2_b=(2, 4), dora_scale=(3, 1)),
            "f.safetensors has 5 tensors that are of no LoRA, DoRA, LoHa or LoKr: x.dora_scale, x.hada_w1_a, "
            "x.hada_w1_b and 2 more",
        ),
        (
            layer(lora_down__weight=(2, 4), lora_up__weight=(3, 5)),
            "f.safetensors: the tensors of x do not fit each other (down [2, 4], up [3, 5])",
        ),
        (
            lora(f"{TO_Q}.lora_down.weight", f"{TO_Q}.lora_up.weight")
            | lora(f"unet.{DOTTED}.lora_A.weight", f"unet.{DOTTED}.lora_B.weight"),
            f"f.safetensors has two tensors for down of the layer {TO_Q}",
        ),
    ],
    ids=["empty", "a model", "oft", "half", "dora of a loha", "shapes", "twice"],
)
def test_what_is_no_lora_is_said(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(LoraFileError) as error:
        lorafile.parse(tensors, "f.safetensors")
    assert error.value.message == message


# --- norms without the change


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("alpha", [None, -2.0, 5.0])
def test_a_norm_is_that_of_the_change(rank: int, alpha: float | None) -> None:
    generator = torch.Generator().manual_seed(0)

    def made(**shapes: tuple[int, ...]) -> FileLayer:
        return FileLayer("x", {n: torch.randn(s, generator=generator) for n, s in shapes.items()}, alpha)

    r = rank
    for found in (
        made(down=(r, 5, 3, 3), up=(7, r, 1, 1)),
        made(down=(r, 5, 1, 1), up=(7, r, 1, 1), mid=(r, r, 3, 3)),
        made(hada_w1_a=(7, r), hada_w1_b=(r, 5), hada_w2_a=(7, r), hada_w2_b=(r, 5)),
        made(lokr_w1=(3, 2), lokr_w2=(4, 5, 3, 3)),
        made(lokr_w1_a=(3, r), lokr_w1_b=(r, 2), lokr_t2=(r, r, 3, 3), lokr_w2_a=(r, 4), lokr_w2_b=(r, 5)),
    ):
        assert found.norm() == pytest.approx(float(found.change().square().sum() ** 0.5), rel=1e-9)
        assert found.flat_shape() == found.change().flatten(1).shape
        assert found.norm() > 0
