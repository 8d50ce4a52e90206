from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.captioning import cli

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


def test_mistakes_exit_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", "--input", str(folder / "gone")]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'gone'}: the folder does not exist\n  -> Check the path of the images.\n"
    )
    with pytest.raises(SystemExit) as caught:
        main(["caption", "--input", str(folder), "--method", "eyes"])
    assert caught.value.code == 2


def test_defaults_and_help(folder: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    args = parser.parse_args(["--input", str(folder)])
    assert (args.output, args.method, args.mode, args.format) == (None, "filename", "missing", "csv")
    assert cli.run(args) == 0
    text = " ".join(parser.format_help().split())
    assert "trigger The trigger word, alone." in text
    assert "missing: it keeps its caption" in text
