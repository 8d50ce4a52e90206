"""Strengths by block: exact for every method, or refused by name."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.adapters.small import CASES, adapted
from tests.trainer.loras.made import tensors
from trainer import adapters, lorafile
from trainer.errors import HostError, LoraFileError
from trainer.loras import blocks, drawing, files, inspection
from trainer.loras.files import Layers


@pytest.fixture
def layers() -> Layers:
    return lorafile.parse(tensors(0))


def in_blocks(case: str) -> Layers:
    """A LoRA of every kind of layer by a method, each in a block of its own."""
    places = {"linear": "down_blocks_1_linear", "wide": "mid_block_wide", "one": "up_blocks_10_one"}
    made = adapters.exported(adapted(case), lambda name: f"lora_unet_{places.get(name, 'up_blocks_2_inner_three')}")
    return lorafile.parse(made)


def test_lines_become_strengths(layers: Layers) -> None:
    assert blocks.read_strengths("", layers) == {}
    text = " mid : 0.5\n\nUP  2= -1.25; down 0:0 ,te: 1e-1\n"
    assert blocks.read_strengths(text, layers) == {"mid": 0.5, "up 2": -1.25, "down 0": 0.0, "te": 0.1}


@pytest.mark.parametrize(
    ("text", "message", "cure"),
    [
        ("up 1: 0", "strengths: the LoRA has no block 'up 1'", "its blocks are: te, down 0, down 1, mid, up 2"),
        ("mid: half", "strengths: 'mid: half' is no block and strength", "write a line such as mid: 0.5"),
        ("mid", "strengths: 'mid' is no block and strength", "write a line such as mid: 0.5"),
        ("mid: nan", "strengths: 'mid: nan' is no block and strength", "write a line such as mid: 0.5"),
        ("mid: 1\nMid: 0", "strengths: the block 'mid' is there twice", "keep one"),
    ],
)
def test_what_is_no_strength_is_named(layers: Layers, text: str, message: str, cure: str) -> None:
    with pytest.raises(HostError) as error:
        blocks.read_strengths(text, layers)
    assert (error.value.message, error.value.cure) == (message, cure)


@pytest.mark.parametrize("case", [case for case in CASES if case != "dora"])
def test_every_method_is_scaled_exactly(case: str) -> None:
    before = in_blocks(case)
    strengths = {"down 1": 0.3, "mid": -2.0, "up 2": 1.0, "up 10": 0.0}
    after = lorafile.parse(files.tensors(blocks.scaled(before, strengths)))
    assert [key for key in before if key not in after] == ["lora_unet_up_blocks_10_one"]
    for key, layer in after.items():
        wanted = strengths[inspection.block(key)] * before[key].change()
        assert (layer.change() - wanted).abs().max() <= 1e-6 * wanted.abs().max(), key
    assert (
        after["lora_unet_up_blocks_2_inner_three"].written().keys()
        == before["lora_unet_up_blocks_2_inner_three"].written().keys()
    )


def test_a_dora_is_left_out_or_stays() -> None:
    before = in_blocks("dora")
    after = blocks.scaled(before, {"mid": 0.0, "down 1": 1.0})
    assert after.keys() == before.keys() - {"lora_unet_mid_block_wide"}
    assert all(after[key] is before[key] for key in after)
    with pytest.raises(LoraFileError) as error:
        blocks.scaled(before, {"mid": 0.5, "up 10": 0.0})
    assert error.value.message == (
        "the LoRA: 1 DoRA layers cannot be scaled by block (lora_unet_mid_block_wide): how much of a DoRA is a half "
        "depends on the base model's own weights"
    )


def test_a_lora_without_alpha_gets_one(layers: Layers) -> None:
    plain = lorafile.parse(tensors(0, alpha=None))
    after = blocks.scaled(plain, {"mid": 0.5})
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2"
    assert after[key].alpha == 4.0
    assert torch.equal(after[key].change(), 0.5 * plain[key].change())


def test_nothing_left_is_an_error(layers: Layers) -> None:
    with pytest.raises(LoraFileError, match="with these strengths nothing of it is left"):
        blocks.scaled(layers, dict.fromkeys(inspection.blocks_of(layers), 0.0))


def test_blocks_of_either_naming_in_the_models_order() -> None:
    keys = ("mid_block_x", "up_blocks_10_x", "up_blocks_2_x", "down_blocks_0_x")
    pair = {"lora_down.weight": torch.ones(1, 2), "lora_up.weight": torch.ones(2, 1)}
    made = {f"lora_unet_{key}.{part}": t for key in keys for part, t in pair.items()}
    made |= {f"lora_te{n}_text_model_x.{part}": t for n in (2, 1) for part, t in pair.items()}
    assert list(inspection.blocks_of(lorafile.parse(made))) == ["te1", "te2", "down 0", "mid", "up 2", "up 10"]
    names = ("output_blocks.3.1", "middle_block.1", "input_blocks.4.1", "out.2")
    core = {f"diffusion_model.{key}.{part}": t for key in names for part, t in pair.items()}
    assert list(inspection.blocks_of(lorafile.parse(core))) == ["input 4", "mid", "output 3", "other"]


def test_the_picture_shows_before_and_after(layers: Layers) -> None:
    after = blocks.scaled(layers, {"up 2": 0.25, "te": 0.0})
    plain, changed = drawing.picture(layers), drawing.picture(after, layers, {"up 2": 0.25, "te": 0.0})
    blue = [sum(count for count, colour in one.getcolors(1 << 20) or () if colour == (0x2B, 0x5C, 0x9E))
            for one in (plain, changed)]  # fmt: skip
    assert plain.size == changed.size
    assert blue[1] < 0.8 * blue[0]
