"""The command import."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from trainer.config import load
from trainer.errors import ConfigError, UserError
from trainer.importers import command

START = 'network_module = "networks.lora"\nunet_lr = 1e-4\nseed = 1\nmax_train_epochs = 10\n'


def call(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_writes_yaml_and_a_line_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "m\u00e4rz \u98ce.toml", tmp_path / "my \u00fc.yaml"
    source.write_text(START + "resolution = '640,384'\nxformers = true\n", encoding="utf-8-sig")
    assert call(source, "-o", target) == 0
    assert capsys.readouterr().out == (
        f"{target}: from m\u00e4rz \u98ce.toml, of kohya (sd-scripts, lora-scripts)\n"
        "no counterpart:\n"
        "  xformers = true: not needed: PyTorch's own attention is used\n"
        "means something else here:\n"
        "  resolution = '640,384': 512: a square of this area; every image keeps its own shape\n"
        "look it over (relative paths count from where you start), then train:\n"
        f'  python train.py --config "{target}"\n'
    )
    assert load(target) == command.read(source).config
    assert "# Imported from m\u00e4rz \u98ce.toml, of kohya" in target.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"exists already; it is not overwritten"):
        call(source, "-o", target)


def test_the_output_is_named_as_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(START, encoding="utf-8")
    assert call(tmp_path / "a.toml") == 0
    assert load(tmp_path / "a.yaml").epochs == 10


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"", "expected .toml (kohya, lora-scripts) or .json (OneTrainer), got '.txt'"),
        ("a.json", b"[1]", "expected a JSON object, got list"),
        ("a.json", b"{", "not JSON: Expecting property name enclosed in double quotes (line 1)"),
        ("a.json", b'{"a": 1}', "holds none of OneTrainer's settings, such as training_method"),
        ("a.toml", b"a = '\xff'", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_files_of_nobody(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        call(path)
    assert error.value.problems[0].startswith(problem)
    assert error.value.message.startswith(f"{path} has 1 fault:")


def test_a_missing_file_a_folder_and_another_program_s_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file does not exist"):
        call(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="the file is a folder"):
        call(tmp_path)
    path = tmp_path / "gui.json"
    path.write_text('{"LoRA_type": "Standard", "pretrained_model_name_or_path": "x"}', encoding="utf-8")
    with pytest.raises(UserError) as error:
        call(path)
    assert error.value.message == f"{path} is of the kohya_ss GUI, which is not read"
