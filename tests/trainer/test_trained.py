"""What is trained of a base model: which layers, of which parts, from which beginning; and it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import adapters, families
from trainer.config import TrainConfig, parse
from trainer.errors import CheckpointError, ConfigError
from trainer.job import Base
from trainer.trained import Trained, build

FAMILY = families.get("sd15")


def built(base: Path, **fields: Any) -> Trained:
    config: TrainConfig = parse({"lora_rank": 2, **fields})
    return build(FAMILY, Base(base, "sd15", "c0ffee"), config, torch.float32)


def nudged(trained: Trained) -> Trained:
    """With weights that are all different, so that a swap would be seen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return trained


def test_the_denoiser_alone_unless_asked(tiny_base: Path) -> None:
    trained = built(tiny_base)
    assert list(trained.parts) == ["unet"]
    assert trained.encoders is None
    assert all(":" not in name for name in trained.parameters())
    assert trained.frozen() == sum(p.numel() for p in FAMILY.load_model(tiny_base, torch.float32).parameters())
    assert all(key.startswith("lora_unet_") for key in trained.exported())


def test_the_text_encoder_too(tiny_base: Path) -> None:
    trained = built(tiny_base, train_text_encoder=True)
    assert list(trained.parts) == ["unet", "text_encoder"]
    of_text = [name for name in trained.parameters() if name.startswith("text_encoder:")]
    assert len(of_text) == 2 * 2 * 6  # down and up, two layers, six linear layers each
    keys = {key.rsplit(".lora_", 1)[0].removesuffix(".alpha") for key in trained.exported()}
    assert "lora_te_text_model_encoder_layers_1_self_attn_q_proj" in keys
    assert sum(key.startswith("lora_te_") for key in keys) == 12


@pytest.mark.parametrize("text", [False, True])
def test_what_a_checkpoint_names_comes_back_to_its_place(tiny_base: Path, text: bool) -> None:
    trained = nudged(built(tiny_base, train_text_encoder=text))
    kept = {name: parameter.detach().clone() for name, parameter in trained.parameters().items()}
    other = built(tiny_base, train_text_encoder=text, seed=7)
    other.load(kept)
    assert all(torch.equal(parameter, kept[name]) for name, parameter in other.parameters().items())
    if text:
        with pytest.raises(CheckpointError, match="has a text_encoder, which this run does not train"):
            built(tiny_base).load(kept)


def test_a_strength_is_the_strength_of_every_part(tiny_base: Path) -> None:
    trained = built(tiny_base, train_text_encoder=True)
    with trained.strength(0.25):
        for model in trained.parts.values():
            assert {layer.layer.scaling["default"] for layer in adapters.layers(model)} == {0.25}
    for model in trained.parts.values():
        assert {layer.layer.scaling["default"] for layer in adapters.layers(model)} == {1.0}


# --- blocks, ranks


def test_only_the_named_blocks(tiny_base: Path) -> None:
    whole = [layer.name for layer in adapters.layers(built(tiny_base).model)]
    chosen = built(tiny_base, lora_blocks=["mid_block", "up_blocks.1"])
    names = [layer.name for layer in adapters.layers(chosen.model)]
    assert names == [name for name in whole if name.startswith(("mid_block.", "up_blocks.1."))]
    assert 0 < len(names) < len(whole)


def test_a_block_that_is_not_there_is_told_with_those_that_are(tiny_base: Path) -> None:
    with pytest.raises(ConfigError) as error:
        built(tiny_base, lora_blocks=["up_blocks.1", "up_blocks.9", "middle"])
    there = "there are down_blocks.0, up_blocks.1, mid_block"
    assert error.value.problems == (
        f"lora_blocks: no layer's name begins with 'up_blocks.9'; {there}",
        f"lora_blocks: no layer's name begins with 'middle'; {there}",
    )


def test_a_block_s_number_is_whole(tiny_base: Path) -> None:
    """up_blocks.1 is not up_blocks.10, and `up_block` is no block."""
    with pytest.raises(ConfigError):
        built(tiny_base, lora_blocks=["up_block"])


def test_a_rank_s_pattern_may_be_of_one_part_only(tiny_base: Path) -> None:
    trained = built(
        tiny_base, train_text_encoder=True, lora_ranks={"attn1": 3, "fc1": 4, "mid_block": 5}, lora_alphas={"fc1": 1.0}
    )
    of_unet = {layer.name: layer.rank for layer in adapters.layers(trained.model)}
    of_text = {layer.name: (layer.rank, layer.alpha) for layer in adapters.layers(trained.parts["text_encoder"])}
    assert {rank for name, rank in of_unet.items() if "attn1" in name} == {3}
    assert {rank for name, rank in of_unet.items() if "mid_block" in name and "attn1" not in name} == {5}
    assert {size for name, size in of_text.items() if "fc1" in name} == {(4, 1.0)}
    assert {size for name, size in of_text.items() if "fc1" not in name} == {(2, 2.0)}
    with pytest.raises(ConfigError, match="lora_ranks: 'fc9' is in the name of none of the"):
        built(tiny_base, train_text_encoder=True, lora_ranks={"fc9": 3})


def test_a_factor_reaches_lokr(tiny_base: Path) -> None:
    layers = list(adapters.layers(built(tiny_base, lora_method="lokr", lokr_factor=4).model))
    assert {min(layer.parts["w1"].shape) for layer in layers} == {4}


# --- from a LoRA file


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "lokr", "loha"])
def test_a_run_begins_where_a_file_ends(tiny_base: Path, tmp_path: Path, method: str) -> None:
    fields = {"lora_method": method, "train_text_encoder": method == "lora", "lora_targets": "conv"}
    first = nudged(built(tiny_base, **fields))
    path = tmp_path / "st\u00fcle \u98ce.safetensors"
    save_file(first.exported(), path)
    again = built(tiny_base, **fields, init_lora=path.as_posix())
    before, after = first.exported(), again.exported()
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[key], before[key], rtol=1e-5, atol=1e-6) for key in before)
    assert load_file(path).keys() == before.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_rank": 4}, "lora_rank: "),
        ({"lora_alpha": 1.0}, "lora_alpha: "),
        ({"lora_method": "loha"}, "lora_method: "),
        ({"lora_targets": "conv"}, "lora_targets, lora_blocks: "),
    ],
)
def test_a_file_that_is_no_beginning_says_what_to_set(
    tiny_base: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    path = tmp_path / "first.safetensors"
    save_file(nudged(built(tiny_base)).exported(), path)
    with pytest.raises(ConfigError) as error:
        built(tiny_base, **fields, init_lora=path.as_posix())
    assert any(problem.startswith(message) for problem in error.value.problems)
