"""What is known of pictures goes from one process to the next, and never says what is no longer so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.dataset import Dataset, fingerprint, remembered, scan
from trainer.dataset import facts as facts_module

HOUR = 3600


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "c\u00e4che" / "pictures.json"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded or hashed."""
    seen: list[str] = []
    for name in ("hashes", "sizes", "masks"):
        one = remembered._every[name]

        def watched(path: str, *more: object, ask=one._function):
            seen.append(Path(path).name)
            return ask(path, *more)

        monkeypatch.setattr(one, "_function", watched)
    return seen


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets all that this one knows."""

    def forget() -> None:
        for one in remembered._every.values():
            monkeypatch.setattr(one, "_answers", {})
            monkeypatch.setattr(one, "new", 0)
        monkeypatch.setattr(remembered, "_recalled", {})
        monkeypatch.setattr(facts_module, "_sizes", {})

    forget()
    return forget


def old(*files: Path) -> None:
    for file in files:
        then = file.stat().st_mtime - HOUR
        os.utime(file, (then, then))


@pytest.fixture
def pictures(draw: Callable[..., Path]) -> list[Path]:
    files = [draw(f"{number} \u56fe.png", seed=number) for number in range(3)]
    old(*files)
    return files


@pytest.mark.parametrize("mask", ["no", "files", "alpha"])
def test_the_next_process_knows_the_same_and_opens_no_picture(
    mask: str, pictures: list[Path], folder: Path, index: Path, draw: Callable[..., Path],
    opened: list[str], another_process: Callable[[], None],
) -> None:  # fmt: skip
    old(draw("0 \u56fe.mask.png"))

    def scanned() -> Dataset:
        return scan(folder, resolution=64, mask=mask, index=index)

    first = scanned()
    assert {file.name for file in pictures} <= set(opened)
    another_process()
    opened.clear()
    assert scanned() == first
    assert fingerprint(folder, index=index) == fingerprint(folder)
    assert [name for name in opened if not name.endswith(".mask.png")] == []
    assert opened == [] or mask != "files"


def test_without_an_index_nothing_is_kept(pictures: list[Path], folder: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    scan(folder, resolution=64)
    assert set(tmp_path.rglob("*")) == before


def test_what_changed_or_is_new_is_looked_at_and_it_alone(
    pictures: list[Path], folder: Path, index: Path, draw: Callable[..., Path],
    opened: list[str], another_process: Callable[[], None],
) -> None:  # fmt: skip
    first = scan(folder, resolution=64, index=index)
    another_process()
    opened.clear()
    changed = draw(pictures[1].name, width=200, seed=9)
    added = draw("new.png", seed=10)
    second = scan(folder, resolution=64, index=index)
    assert set(opened) == {changed.name, added.name}
    assert second.items[0] == first.items[0]
    assert second.items[1].size == (200, 80)
    # They changed just now, and may change again without a new time stamp.
    another_process()
    opened.clear()
    scan(folder, resolution=64, index=index)
    assert set(opened) == {changed.name, added.name}


def test_a_picture_that_cannot_be_read_is_tried_again(
    pictures: list[Path], folder: Path, index: Path, opened: list[str], another_process: Callable[[], None]
) -> None:
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    old(broken)
    scan(folder, resolution=64, index=index)
    another_process()
    opened.clear()
    assert "corrupt" in {problem.kind for problem in scan(folder, resolution=64, index=index).problems}
    assert opened == ["broken.png"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'{"version": 0}', b'{"version": 1, "sizes": 3}', b'{"version": 1, "hashes": {"z": 1}}',
        b'{"version": 1, "sizes": {"1": [1, 2, 3]}}',
    ],
)  # fmt: skip
def test_a_damaged_index_is_made_anew(
    content: bytes, pictures: list[Path], folder: Path, index: Path, another_process: Callable[[], None]
) -> None:
    whole = scan(folder, resolution=64, index=index)
    kept = json.loads(index.read_bytes())
    another_process()
    index.write_bytes(content)
    assert scan(folder, resolution=64, index=index) == whole
    assert json.loads(index.read_bytes()) == kept


def test_two_data_sets_keep_theirs_in_one_index_and_it_stays_bounded(
    pictures: list[Path], folder: Path, tmp_path: Path, index: Path, opened: list[str],
    another_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes(pictures[0].read_bytes())
    old(other / "a.png")
    for place in (folder, other):
        another_process()
        scan(place, resolution=64, index=index)
    another_process()
    opened.clear()
    for place in (folder, other):
        scan(place, resolution=64, index=index)
    assert opened == []
    monkeypatch.setattr(remembered, "MOST_KEPT", 2)
    (other / "b.png").write_bytes(pictures[1].read_bytes())
    old(other / "b.png")
    scan(other, resolution=64, index=index)
    kept = json.loads(index.read_bytes())
    assert (len(kept["sizes"]), len(kept["hashes"])) == (2, 2)


def test_an_index_that_cannot_be_written_is_no_harm(pictures: list[Path], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert len(scan(folder, resolution=64, index=tmp_path / "file" / "pictures.json").items) == 3
