"""The command init."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from trainer.config import AUTO_FIELDS, load
from trainer.errors import BaseModelError, UserError
from trainer.setup import command, presets


def init(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("card", presets.CARDS)
@pytest.mark.parametrize("family", presets.FAMILIES)
def test_a_config_for_a_family_and_a_card(family: str, card: int, tmp_path: Path) -> None:
    path = tmp_path / f"{family}.yaml"
    assert init("--family", family, "--card", str(card), "-o", path) == 0
    assert load(path) == load(presets.FOLDER / f"{family}_{card}gb.yaml")
    assert "yaml-language-server" not in path.read_text(encoding="utf-8")  # there is no schema beside it


def test_it_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init() == 0
    assert capsys.readouterr().out == (
        "my_lora_config.yaml: Stable Diffusion 1.5, a card of 8 GB\n"
        "set base_model and train_data_dir in it, then train:\n"
        "  python train.py --config my_lora_config.yaml\n"
    )
    assert load(tmp_path / "my_lora_config.yaml").warmup_steps == "auto"


@pytest.mark.parametrize("family", presets.FAMILIES)
def test_a_config_that_leaves_it_to_the_images_and_the_card(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "auto.yaml"
    assert init("--family", family, "--auto", "-o", path) == 0
    config = load(path)
    assert config.auto == AUTO_FIELDS
    assert (config.warmup_steps, config.mixed_precision) == ("auto", "auto")
    assert "\nlora_rank: auto " in path.read_text(encoding="utf-8")
    assert "what the images and the card can decide is auto" in capsys.readouterr().out


def test_the_family_is_that_of_the_base(tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "d\u00e4ta \u6c34"
    data.mkdir()
    path = tmp_path / "my \u98ce\u683c.yaml"
    assert init("--base", tiny_base, "--data", data, "-o", path, "--card", "24") == 0
    config = load(path)
    assert (config.base_model, config.train_data_dir) == (tiny_base, data)
    assert config.output_dir == Path("output") / data.name
    assert (config.batch_size, config.resolution) == (4, 512)
    assert capsys.readouterr().out == (
        f"{path}: Stable Diffusion 1.5, a card of 24 GB\n"
        f'  python train.py --config "{path}"\n'
    )  # fmt: skip


def test_a_folder_that_is_not_there_yet(tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init("--base", tiny_base, "--data", tmp_path / "later", "-o", tmp_path / "a.yaml") == 0
    assert f"put the images into {tmp_path / 'later'}, then train:\n" in capsys.readouterr().out


def test_mistakes_write_nothing(tmp_path: Path, tiny_base: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(UserError) as error:
        init("--family", "sdxl", "--base", tiny_base, "-o", path)
    assert str(error.value) == (
        f"--family sdxl: {tiny_base} is Stable Diffusion 1.5\n  -> leave --family out, or give --family sd15"
    )
    with pytest.raises(BaseModelError, match=r"none\.safetensors"):
        init("--base", tmp_path / "none.safetensors", "-o", path)
    assert not path.exists()
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.yaml exists already; it is not overwritten"):
        init("-o", path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_file_in_the_program_s_folder_knows_the_schema() -> None:
    root = presets.FOLDER.parent
    assert command._schema(presets.FOLDER / "my.yaml") == "schema.json"
    assert command._schema(root / "my.yaml") == "configs/schema.json"
    assert command._schema(root / "data" / "a" / "my.yaml") == "../../configs/schema.json"
    assert command._schema(root.parent / "my.yaml") == ""
