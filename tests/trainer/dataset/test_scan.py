from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import re
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer.dataset import KINDS, ImageItem, Problem, fingerprint, load_pixels, scan
from trainer.dataset import scan as scan_function
from trainer.dataset.items import PASSED_OVER
from trainer.dataset.pixels import Unusable
from trainer.errors import DatasetError

from .conftest import noise


def test_what_an_item_holds(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.png", 300, 200)
    (folder / "a.txt").write_text("a house", encoding="utf-8")
    dataset = scan(folder, resolution=128, trigger_word="sks", repeats=3)
    assert dataset.root == folder
    assert dataset.problems == ()
    assert dataset.items == (
        ImageItem(
            id=hashlib.sha256(path.read_bytes()).hexdigest()[:32],
            path=path,
            captions=("sks, a house",),
            size=(300, 200),
            bucket=(128, 128),
            repeats=3,
        ),
    )
    assert dataset.items[0].crop == (32, 0)


def test_the_order_is_by_name(draw: Callable[..., Path], folder: Path) -> None:
    names = ["b.png", "B2.png", "a10.png", "A2.jpg", "\u00fc.png", "\u56fe.png", "a b.png"]
    for seed, name in enumerate(names):
        draw(name, seed=seed)
    dataset = scan(folder, resolution=64)
    assert [item.path.name for item in dataset.items] == sorted(names, key=str.casefold)
    assert scan(folder, resolution=64) == dataset


def test_a_relative_path_and_a_home_path(
    draw: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("a.png")
    expected = scan(folder, resolution=64)
    monkeypatch.chdir(folder.parent)
    assert scan(folder.name, resolution=64) == expected
    assert scan(f"./{folder.name}/", resolution=64) == expected
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert scan(f"~/{folder.name}", resolution=64) == expected


def test_the_same_bytes_twice_have_two_ids(draw: Callable[..., Path], folder: Path) -> None:
    first = draw("a.png")
    for name in ("b.png", "c.png"):
        shutil.copyfile(first, folder / name)
    (folder / "a.txt").write_text("x", encoding="utf-8")
    (folder / "metadata.csv").write_text("filename,prompt\nb,x\nc,x\n", encoding="utf-8")
    dataset = scan(folder, resolution=64)
    content = hashlib.sha256(first.read_bytes()).hexdigest()[:32]
    assert [item.id for item in dataset.items] == [content, f"{content}-2", f"{content}-3"]
    message = "has the same bytes as a.png; both are trained"
    assert dataset.problems == tuple(Problem(folder / name, "duplicate", message) for name in ("b.png", "c.png"))


def test_nothing_of_the_users_is_changed(draw: Callable[..., Path], folder: Path) -> None:
    for name in ("a.png", "b.jpg", "c.webp"):
        draw(name, 200, 100)
    (folder / "broken.png").write_bytes(b"broken")
    (folder / "a.txt").write_text("a house", encoding="utf-8")
    (folder / "metadata.csv").write_text("filename,prompt\nb.jpg,b\nz,z\n", encoding="utf-8")

    def state() -> dict[str, tuple[bytes, int]]:
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}

    before, folder_before = state(), folder.stat().st_mtime_ns
    for item in scan(folder, resolution=64, trigger_word="sks").items:
        load_pixels(item)
    fingerprint(folder)
    assert state() == before
    assert folder.stat().st_mtime_ns == folder_before


def test_progress(draw: Callable[..., Path], folder: Path) -> None:
    for index in range(5):
        draw(f"{index}.png", seed=index)
    seen: list[tuple[int, int]] = []
    scan(folder, resolution=64, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_an_interruption_does_not_wait_for_the_rest(
    draw: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(100):
        (folder / f"{index}.png").write_bytes(b"x")
    module = importlib.import_module("trainer.dataset.facts")
    inspected: list[str] = []

    def slow(_: object, name: str, *__: object) -> Unusable:
        inspected.append(name)
        time.sleep(0.01)
        return Unusable("corrupt", "x")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_fact", slow)
    with pytest.raises(KeyboardInterrupt):
        scan(folder, resolution=64, on_progress=interrupt)
    assert len(inspected) < 50


def test_items_are_small(folder: Path) -> None:
    picture = Image.new("RGB", (64, 64))
    for index in range(400):
        picture.putpixel((0, 0), (index % 256, index // 256, 0))
        picture.save(folder / f"picture number {index}.bmp")
    scan(folder, resolution=64)
    tracemalloc.start()
    try:
        dataset = scan(folder, resolution=64)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # No pixels (12 kB a picture): a name, a caption, a few numbers, a problem.
    assert len(dataset.items) == 400
    assert kept / 400 < 1000
    assert len(pickle.dumps(dataset)) / 400 < 1000


def message_of(*arguments: object, **options: object) -> str:
    with pytest.raises(DatasetError) as caught:
        scan_function(*arguments, **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


def test_folders_that_cannot_be_used(folder: Path) -> None:
    formats = "PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF"
    assert message_of(folder / "gone") == (
        f"{folder / 'gone'}: the folder does not exist\n  -> Check the path of the images."
    )
    assert message_of(folder) == f"{folder}: no image in the folder\n  -> Put pictures ({formats}) into it."
    (folder / "a.txt").write_text("x", encoding="utf-8")
    assert message_of(folder / "a.txt") == (
        f"{folder / 'a.txt'}: is a file, expected a folder of images\n  -> Name the folder that it lies in."
    )
    assert message_of(folder) == (
        f"{folder}: no image in the folder\n  -> Put pictures ({formats}) into it. Lines of text alone want task_type: "
        "text-generation."
    )


def test_many_images_and_none_can_be_used(folder: Path) -> None:
    for index in range(7):
        (folder / f"{index}.png").write_bytes(b"")
    listed = "\n".join(f"  - {index}.png: is empty (0 bytes)" for index in range(5))
    assert message_of(folder) == (
        f"{folder}: none of the 7 images can be used:\n{listed}\n  - and 2 more\n"
        "  -> Put readable pictures into the folder."
    )


@pytest.mark.parametrize("repeats", [0, -1, 1.5, True, "2"])
def test_repeats(draw: Callable[..., Path], folder: Path, repeats: object) -> None:
    draw("a.png")
    assert message_of(folder, repeats=repeats) == f"repeats: expected a whole number of at least 1, got {repeats!r}"


def test_resolution(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png")
    assert message_of(folder, resolution=500).startswith("resolution: expected a multiple of 64, at least 64, got 500")


def test_a_changed_image_is_seen_by_the_next_scan(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.bmp", seed=1)
    os.utime(path, ns=(1, 10**18))
    before = scan(folder, resolution=64).items[0]
    draw("a.bmp", seed=2)
    after = scan(folder, resolution=64).items[0]
    assert before.id != after.id
    assert not torch.equal(load_pixels(after), torch.zeros(3, 64, 64))
    path.write_bytes(path.read_bytes()[:-100])
    assert message_of(folder, resolution=64).startswith(f"{folder}: the only image cannot be used")


def test_a_change_within_one_tick_of_the_clock_is_seen(draw: Callable[..., Path], folder: Path) -> None:
    # The same size, the same time stamp: FAT counts in steps of two seconds.
    now = time.time_ns()
    ids = set()
    for seed in range(3):
        os.utime(draw("a.bmp", seed=seed), ns=(now, now))
        ids.add(scan(folder, resolution=64).items[0].id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "a.txt").write_text("a hause", encoding="utf-8"),
        lambda f: (f / "b.caption").write_text("new", encoding="utf-8"),
        lambda f: (f / "metadata.csv").write_text("filename,prompt\nb,c\n", encoding="utf-8"),
        lambda f: (f / "metadata.csv").unlink(),
        lambda f: (f / "a.png").rename(f / "c.png"),
        lambda f: noise(100, 80, 7).save(f / "a.png"),
        lambda f: (f / "b.png").unlink(),
        lambda f: noise(100, 80, 8).save(f / "c.png"),
    ],
)
def test_the_fingerprint_changes_with_what_is_trained(
    draw: Callable[..., Path], folder: Path, change: Callable[[Path], object]
) -> None:
    draw("a.png")
    draw("b.png", seed=1)
    (folder / "a.txt").write_text("a house", encoding="utf-8")
    (folder / "metadata.csv").write_text("filename,prompt\nb,b\n", encoding="utf-8")
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_the_fingerprint_stays_with_what_is_not_trained(
    draw: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    path = draw("a.png")
    (folder / "a.txt").write_text("a house", encoding="utf-8")
    before = fingerprint(folder)
    assert len(before) == 64
    (folder / "notes.md").write_text("x", encoding="utf-8")
    (folder / "log.txt").write_text("x", encoding="utf-8")
    os.utime(path)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert fingerprint(folder) == fingerprint(copy) == before
    table = tmp_path / "table.csv"
    table.write_text("filename,prompt\na,b\n", encoding="utf-8")
    named = fingerprint(folder, table)
    assert named != before
    table.write_text("filename,prompt\na,c\n", encoding="utf-8")
    assert fingerprint(folder, table) != named


def test_the_fingerprint_reads_an_old_file_once(
    draw: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        os.utime(draw(f"{index}.png", seed=index), ns=(1, 10**18))
    before = fingerprint(folder)
    opened: list[Path] = []
    original = Path.open

    def record(self: Path, *arguments: Any) -> Any:
        opened.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(Path, "open", record)
    assert fingerprint(folder) == before
    assert opened == []
    os.utime(folder / "1.png", ns=(1, 2 * 10**18 // 2 + 5))
    assert fingerprint(folder) == before
    assert opened == [folder / "1.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are made with a POSIX call")
def test_the_fingerprint_does_not_wait_for_a_pipe(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png")
    before = fingerprint(folder)
    os.mkfifo(folder / "b.png")
    assert fingerprint(folder) != before


def test_the_kinds_are_the_ones_that_the_code_uses() -> None:
    package = Path(importlib.import_module("trainer.dataset").__file__ or "").parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py") if path.name != "items.py")
    used = set(re.findall(r'(?:Problem\([\w./ ]+, |Unusable\()"([a-z-]+)"', source))
    assert used == set(KINDS)
    assert set(KINDS) > PASSED_OVER


def test_excluded_images_are_as_if_they_were_not_there(draw: Callable[..., Path], folder: Path) -> None:
    (folder / "10_k\u00e4tzchen").mkdir()
    for number, name in enumerate(("a.png", "10_k\u00e4tzchen/\u6f2b.png", "copy.png", "z.png")):
        draw(name, seed=number)
    shutil.copy(folder / "z.png", folder / "copy.png")
    (folder / "broken.png").write_bytes(b"")
    (folder / "metadata.csv").write_text("filename,prompt\na.png,first\nz.png,last\n", encoding="utf-8")
    before = scan(folder)
    assert {problem.kind for problem in before.problems} == {"duplicate", "empty", "no-caption"}
    dataset = scan(folder, exclude=["copy.png", "10_Ka\u0308tzchen\\\u6f2b.PNG", "./broken.png", "gone.png", " "])
    assert [item.name for item in dataset.items] == ["a.png", "z.png"]
    assert dataset.excluded == ("broken.png", "copy.png", "10_k\u00e4tzchen/\u6f2b.png")
    (only,) = dataset.problems
    assert only.kind == "unknown-excluded"
    assert only.message == "has no image 'gone.png', which is to be left out"
    (folder / "copy.png").unlink()
    alone = scan(folder, exclude=["10_k\u00e4tzchen/\u6f2b.png", "broken.png"])
    assert alone.items == dataset.items, "the same run"
    with pytest.raises(DatasetError, match="all 4 images are excluded"):
        scan(folder, exclude=[item.name for item in before.items if item.name != "copy.png"] + ["broken.png"])


def test_on_a_system_with_both_an_exact_name_is_excluded_alone(draw: Callable[..., Path], folder: Path) -> None:
    draw("A.png", seed=1)
    draw("a.png", seed=2)
    if len(list(folder.iterdir())) == 2:
        assert [item.name for item in scan(folder, exclude=["a.png"]).items] == ["A.png"]
