"""Pictures that a graph gave, on disk: named by what is in them, never changed, bounded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.dataset import scan

GREEN = 'gr\u00fcn, \u7eff\u8272 "x"\nand more'


@pytest.fixture
def stored(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("stored")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data sets \u00fc \u6f2b\u753b"


def picture(seed: int, height: int = 64, width: int = 96, channels: int = 3, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, height, width, channels), generator=generator) / 255


def captions(folder: Path, **more: Any) -> list[str]:
    return [item.captions[0] for item in scan(folder, resolution=64, **more).items]


def test_pictures_and_captions_come_back_to_the_bit(stored: Any, root: Path):
    images = [picture(0, batch=2), picture(1, 128, 64)]
    done: list[tuple[int, int]] = []
    folder = stored.store(root, images, ["a", "", GREEN], lambda *counts: done.append(counts))
    assert done == [(1, 3), (2, 3), (3, 3)]
    files = sorted(folder.glob("*.png"))
    assert [np.array(Image.open(file)).shape for file in files] == [(64, 96, 3), (64, 96, 3), (128, 64, 3)]
    for file, expected in zip(files, [images[0][0], images[0][1], images[1][0]], strict=True):
        assert torch.equal(torch.from_numpy(np.array(Image.open(file))) / 255, expected)
    assert captions(folder) == ["a", "", 'gr\u00fcn, \u7eff\u8272 "x" and more']
    assert [path.name for path in root.iterdir()] == [folder.name], "nothing half done is left"


def test_the_same_is_the_same_folder_and_anything_else_another(stored: Any, root: Path):
    first = stored.store(root, [picture(0), picture(1)], ["a", "b"])
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert stored.store(root, [torch.cat([picture(0), picture(1)])], ["a", "b"]) == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before
    others = [
        stored.store(root, [picture(0), picture(1)], ["a", "c"]),
        stored.store(root, [picture(1), picture(0)], ["a", "b"]),
        stored.store(root, [picture(0), picture(1)], None),
        stored.store(root, [picture(0).reshape(1, 96, 64, 3), picture(1)], ["a", "b"]),
    ]
    assert len({first, *others}) == 5


def test_one_text_is_for_all(stored: Any, root: Path):
    assert captions(stored.store(root, [picture(0, batch=3)], ["sks"])) == ["sks"] * 3


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_transparency_are_kept(stored: Any, root: Path, channels: int):
    given = picture(0, channels=channels)
    (file,) = stored.store(root, [given], None).iterdir()
    assert torch.equal(torch.from_numpy(np.array(Image.open(file))).reshape(given.shape[1:]) / 255, given[0])


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([picture(0)], ["a", "b"], "texts: 2 texts and 1 pictures are wired; expected one text for each picture, or "
         "one for all"),
        ([], None, "images: there is no picture in what is wired"),
        ([picture(0)[:0]], None, "images: there is no picture in what is wired"),
        ([picture(0)[0]], None, "images: number 1 is [64, 96, 3], expected [pictures, height, width, channels] with "
         "1, 3 or 4 channels"),
        ([picture(0), picture(0)[..., :2]], None, "images: number 2 is [1, 64, 96, 2], expected [pictures, height, "
         "width, channels] with 1, 3 or 4 channels"),
        ([picture(0) / 0], None, "images: number 1 has values that are no numbers (NaN)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(stored: Any, root: Path, images: Any, texts: Any, message: str):
    with pytest.raises(stored.HostError) as caught:
        stored.store(root, images, texts)
    assert caught.value.message == message
    assert not root.exists()


def test_other_captions_are_another_folder(stored: Any, root: Path):
    first = stored.store(root, [picture(0), picture(1)], ["a", "b"])
    before = {file.name: file.read_bytes() for file in first.iterdir()}

    def change(folder: Path) -> None:
        (folder / "metadata.csv").write_text("filename,prompt\n000001.png,new\n", "utf-8")

    second = stored.changed(first, change, "so")
    assert second != first
    assert captions(second) == ["new", ""]
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before
    assert stored.changed(first, change, "so") == second
    assert {path.name for path in root.iterdir()} == {first.name, second.name}


def test_a_change_that_was_stopped_goes_on(stored: Any, root: Path):
    first = stored.store(root, [picture(0), picture(1)], ["a", "b"])

    def stop(folder: Path) -> None:
        (folder / "metadata.csv").write_text("filename,prompt\n000001.png,new\n", "utf-8")
        raise KeyboardInterrupt

    def go_on(folder: Path) -> None:
        with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
            file.write("000002.png,too\n")

    with pytest.raises(KeyboardInterrupt):
        stored.changed(first, stop, "so")
    assert captions(first) == ["a", "b"]
    assert "new" not in (stored.changed(first, go_on, "otherwise") / "metadata.csv").read_text("utf-8")
    assert captions(stored.changed(first, go_on, "so")) == ["new", "too"]
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_what_was_used_longest_ago_goes_when_there_is_too_much(
    stored: Any, root: Path, monkeypatch: pytest.MonkeyPatch
):
    folders = [stored.store(root, [picture(seed)], None) for seed in range(2)]
    os.utime(folders[0], (0, 0))
    monkeypatch.setattr(stored, "MOST_BYTES", 1)
    folders.append(stored.store(root, [picture(2)], None))
    assert [folder.is_dir() for folder in folders] == [False, True, True], "what is in use stays"
