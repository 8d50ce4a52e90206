"""Files of kohya's with mistakes: what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import ConfigError, UserError
from trainer.importers import kohya
from trainer.importers.base import Imported

START = 'network_module = "networks.lora"\nunet_lr = 1e-4\nseed = 1\nmax_train_epochs = 10\n'


def read(text: str) -> Imported:
    return kohya.read(text, Path("/f/\u98ce \u00fc.toml"))


BAD = [
    ("a = [", ["not TOML: "]),
    ("a = 1\nb = 2", ["holds none of kohya's options, such as network_dim or train_data_dir"]),
    ("", ["holds none of kohya's options, such as network_dim or train_data_dir"]),
    ('network_dim = "many"', ["network_dim: expected a number, got 'many'"]),
    ("network_dim = 4.5", ["network_dim: expected a whole number, got 4.5"]),
    ("network_dim = true", ["network_dim: expected a number, got True"]),
    ("learning_rate = nan", ["learning_rate: expected a number, got nan"]),
    ("flip_aug = 3", ["flip_aug: expected true or false, got 3"]),
    ("train_data_dir = 3", ["train_data_dir: expected a text, got 3"]),
    ('resolution = "512x512"', ["resolution: expected a side, or width and height such as 512,512, got '512x512'"]),
    ("resolution = [1, 2, 3]", ["resolution: expected a side, or width and height such as 512,512, got [1, 2, 3]"]),
    ('network_args = ["conv_dim"]', ["network_args: expected name=value, got 'conv_dim'"]),
    ('network_args = ["conv_dim=four"]', ["network_args conv_dim: expected a number, got 'four'"]),
    ('text_encoder_lr = "x"', ["text_encoder_lr: expected a number, got 'x'"]),
    ("unet_lr = 0", ["unet_lr: expected more than 0; a LoRA of the text encoder alone is not trained by this version"]),
    ("network_dim = 'a'\nmax_train_epochs = 'b'\nflip_aug = 'c'", [
        "flip_aug: expected true or false, got 'c'", "max_train_epochs: expected a number, got 'b'",
        "network_dim: expected a number, got 'a'"]),
    ("[[datasets]]\nresolution = 512", ["datasets: one has no [[datasets.subsets]] with an image_dir"]),
    ("datasets = 3", ["datasets: expected [[datasets]] with [[datasets.subsets]] below it"]),
    ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2", ["datasets.subsets: one has no image_dir"]),
    ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nis_reg = true", [
        "datasets.subsets: all are regularisation images (is_reg)"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problems"), BAD, ids=[text[:40] for text, _ in BAD])
def test_a_bad_file(text: str, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert len(error.value.problems) == len(problems)
    assert all(found.startswith(start) for found, start in zip(error.value.problems, problems, strict=True))
    assert error.value.message.startswith("/f/\u98ce \u00fc.toml has ")


def test_a_value_out_of_range_is_told_with_our_field() -> None:
    with pytest.raises(ConfigError) as error:
        read(START + "network_dim = 0\nmax_grad_norm = -1")
    assert error.value.message == (
        "/f/\u98ce \u00fc.toml, in this program's fields, has 2 faults:\n"
        "  - lora_rank: expected at least 1, got 0 (default 8)\n"
        "  - max_grad_norm: expected at least 0.0, got -1 (default 1.0)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v2 = true", "v2: Stable Diffusion 2 is not trained by this version"),
        ('model_train_type = "flux-lora"', "model_train_type flux-lora is not trained by this version"),
        ('network_module = "networks.lora_flux"',
         "network_module networks.lora_flux is for a model family that this version does not train"),
    ],
)  # fmt: skip
def test_what_this_version_does_not_train(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(text)
    assert error.value.message == f"/f/\u98ce \u00fc.toml: {message}"
    assert error.value.cure
