from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.captioning.slow import Slow
from trainer.__main__ import main
from trainer.captioning import all_captioners, cli
from trainer.captioning.base import Place, Tagging, Wish

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one picture."""
    path = tmp_path / "my \u56fe\u7247" / "f\u00fcr training"
    path.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(path / "red_house-01.png")
    return path


def test_the_guides_command(folder: Path) -> None:
    table = folder / "metadata.csv"
    arguments = ["--input", str(folder), "--output", str(table)]
    # From another working directory, with the console of a system that knows no Chinese.
    done = subprocess.run(
        [sys.executable, str(REPO / "tools" / "auto_label.py"), *arguments],
        cwd=folder.parent,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.stderr.decode("utf-8") == ""
    assert done.returncode == 0
    assert table.read_bytes() == b"filename,prompt\nred_house-01.png,red house\n"
    assert done.stdout.decode("utf-8").splitlines() == [f"1 caption written to {table}, 0 left as they were"]


def test_every_option_reaches_its_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "red_house-01.txt").write_text("mine", encoding="utf-8")
    options = ["--method", "folder", "--trigger-word", "sks", "--mode", "prepend", "--format", "txt"]
    assert main(["caption", "--input", str(folder), *options]) == 0
    assert (folder / "red_house-01.txt").read_text(encoding="utf-8") == "sks, f\u00fcr training, mine\n"
    assert "- kept the former file as red_house-01.txt.bak" in capsys.readouterr().out


def test_every_option_of_a_model_reaches_the_captioner(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Slow(tmp_path / "said", models=("darkroom-tests/slow",))
    monkeypatch.setitem(all_captioners(), "slow", slow)
    model = tmp_path / "models" / "my slow"
    model.mkdir(parents=True)
    (model / "slow.json").touch()
    options = [
        "--method", "slow", "--models-dir", str(tmp_path / "models"), "--model", "my slow", "--device", "cpu",
        "--batch", "3", "--purpose", "style", "--prompt", "What?", "--length", "long",
        "--threshold", "0.4", "--character-threshold", "0.9", "--rating", "--underscores", "--exclude", "a, b c,",
        "--first", "d", "--prefix", "so:", "--suffix", ", end", "--replace", "rgb -> red", "--replace", "0 0 0 ->",
    ]  # fmt: skip
    assert main(["caption", "--input", str(folder), *options]) == 0
    tagging = Tagging(0.4, 0.9, True, True, ("a", "b c"), ("d",))
    assert slow.opened == (Wish("", "style", "What?", "long", tagging), Place(model, "cpu", 3))
    assert (folder / "metadata.csv").read_text("utf-8").splitlines()[1] == 'red_house-01.png,"so: red, end"'
    assert capsys.readouterr().out.splitlines()[0].startswith("loading the model ")


def test_a_model_that_is_missing_or_not_named_exits_with_2(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(all_captioners(), "slow", Slow(tmp_path / "said", models=("darkroom-tests/slow",)))
    gone = tmp_path / "gone"
    assert main(["caption", "--input", str(folder), "--method", "slow", "--model", str(gone)]) == 2
    assert f"error: model: {gone} does not exist" in capsys.readouterr().err
    assert main(["caption", "--input", str(folder), "--replace", "no rule"]) == 2
    assert "replace: 'no rule' is no rule" in capsys.readouterr().err
    assert main(["caption", "--input", str(folder), "--device", "cuda:99"]) == 2
    assert "device: cuda:99 is not there" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["red_house-01.png"]


def test_progress_is_a_line_now_and_then(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.new("RGB", (64, 64)).save(folder / f"z{number}.png")
    monkeypatch.setitem(all_captioners(), "slow", Slow(tmp_path / "said"))
    monkeypatch.setattr(cli, "SECONDS", 0.0)
    assert main(["caption", "--input", str(folder), "--method", "slow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    assert lines[3].endswith(" left  z2.png: rgb 0 0 0")


def test_mistakes_exit_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", "--input", str(folder / "gone")]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'gone'}: the folder does not exist\n  -> Check the path of the images.\n"
    )
    with pytest.raises(SystemExit) as caught:
        main(["caption", "--input", str(folder), "--method", "eyes"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("options", "what", "others"),
    [
        (["--method", "blip", "--prompt", "What?"], "--prompt: the method 'blip'", "joycaption, qwen"),
        (["--method", "blip", "--length", "long"], "--length: the method 'blip'", "florence, joycaption, qwen"),
        (["--purpose", "style"], "--purpose: the method 'filename'", "blip, florence, joycaption, qwen"),
        (["--method", "qwen", "--exclude", "hat"], "what is for taggers: the method 'qwen'", "wd14"),
    ],
)
def test_what_a_method_does_not_go_by_is_not_waited_for_in_vain(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], what: str, others: str
) -> None:
    assert main(["caption", "--input", str(folder), *options]) == 2
    said = f"error: {what} does not go by it\n  -> Leave it out, or take {others}.\n"
    assert capsys.readouterr().err == said


def test_defaults_and_help(folder: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    args = parser.parse_args(["--input", str(folder)])
    assert (args.output, args.method, args.mode, args.format) == (None, "filename", "missing", "csv")
    assert cli.run(args) == 0
    text = " ".join(parser.format_help().split())
    assert "trigger The trigger word, alone." in text
    assert "missing: it keeps its caption" in text
