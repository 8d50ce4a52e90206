"""Files are whole or absent; the same content is the same bytes; contents are hashed once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from trainer import files
from trainer.errors import CacheError
from trainer.files import ContentHashes, digest, write_bytes, write_json, write_tensors, write_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "f\u00f6lder \u6587\u4ef6"


def fail(kind: int) -> Any:
    def failing(*_: object) -> None:
        raise OSError(kind, os.strerror(kind))

    return failing


def test_a_file_is_written_with_its_folders_and_replaced(folder: Path) -> None:
    path = folder / "below" / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_file_is_written_in_parts(folder: Path) -> None:
    write_bytes(folder / "a.bin", b"one ", memoryview(b"and two")[4:], b"")
    assert (folder / "a.bin").read_bytes() == b"one two"


def test_text_keeps_its_line_ends_and_json_its_characters(folder: Path) -> None:
    write_text(folder / "a.txt", "\u4e00\r\nb\n")
    assert (folder / "a.txt").read_bytes() == "\u4e00\r\nb\n".encode()
    write_json(folder / "a.json", {"\u4e00": [1, None]})
    assert "\u4e00" in (folder / "a.json").read_text(encoding="utf-8")
    assert json.loads((folder / "a.json").read_bytes()) == {"\u4e00": [1, None]}


def test_a_name_that_is_no_utf8_comes_back_through_json(folder: Path) -> None:
    write_text(folder / "a.json", json.dumps("\udcff\u4e00", ensure_ascii=False))
    assert json.loads((folder / "a.json").read_text(encoding="utf-8")) == "\udcff\u4e00"


@pytest.mark.parametrize("breaks", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    path = folder / "a.bin"
    write_bytes(path, b"old")
    monkeypatch.setattr(files.os, breaks, fail(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(folder) == ["a.bin"]


@pytest.mark.parametrize(("failures", "succeeds"), [(0, True), (2, True), (3, False)])
def test_a_file_that_is_open_elsewhere_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failures: int, succeeds: bool
) -> None:
    """As on Windows, where a target that is open cannot be replaced."""
    monkeypatch.setattr(files, "_TRIES", 3)
    monkeypatch.setattr(files, "_PAUSE", 0)
    real, left = os.replace, [failures]

    def busy(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "in use")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", busy)
    if succeeds:
        write_bytes(folder / "a.bin", b"x")
    else:
        with pytest.raises(PermissionError):
            write_bytes(folder / "a.bin", b"x")
    assert os.listdir(folder) == (["a.bin"] if succeeds else [])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_others_may_read_what_is_written(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        write_tensors(folder / "a.safetensors", {"x": torch.ones(2)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.safetensors").stat().st_mode) == 0o644


def test_tensors_come_back_whatever_their_layout_and_format(folder: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "transposed": whole.T,
        "slice": whole[:, ::2],
        "half": whole.half(),
        "bf16": whole.bfloat16(),
        "number": torch.tensor(3.0),
        "int": torch.arange(3),
        "empty": torch.zeros(0, 3),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    write_tensors(folder / "a.safetensors", tensors, {"k\u00e4y": "v\u4e00lue"})
    back = load_file(folder / "a.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor.detach())
    with safe_open(folder / "a.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"k\u00e4y": "v\u4e00lue"}


def test_the_same_content_is_the_same_bytes_whatever_the_order_of_its_metadata(folder: Path) -> None:
    names = [f"key {n}" for n in range(12)]
    for number, order in enumerate((names, names[::-1])):
        write_tensors(folder / f"{number}.safetensors", {"x": torch.ones(3)}, dict.fromkeys(order, "v"))
    one, two = ((folder / f"{n}.safetensors").read_bytes() for n in (0, 1))
    assert one == two
    length = int.from_bytes(one[:8], "little")
    assert length % 8 == 0
    assert list(json.loads(one[8 : 8 + length])["__metadata__"]) == sorted(names)


def test_what_was_used_longest_ago_is_removed_until_the_rest_fits(folder: Path) -> None:
    (folder / "a folder").mkdir(parents=True)
    entries = [folder / "a folder", folder / "b", folder / "c", folder / "d"]
    for entry, days in zip(entries, (9, 3, 5, 0), strict=True):
        (entry / "inside" if entry.is_dir() else entry).write_bytes(bytes(100))
        then = time.time() - days * 86_400
        os.utime(entry, (then, then))

    def left(most: int) -> list[str]:
        files.trim(folder, most, in_use=3600)
        return sorted(path.name for path in folder.iterdir())

    assert left(400) == ["a folder", "b", "c", "d"]
    assert left(399) == ["b", "c", "d"]
    assert left(100) == ["d"]
    assert left(0) == ["d"], "what is in use stays"


def test_a_digest_is_stable_and_tells_values_apart() -> None:
    assert digest("latents", 1, ("a", 2)) == "c59e25f8fd46b852fc87963f55c1ddc9"
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest(["abc"]), digest("\u4e00")}) == 5
    assert digest(1) != digest("1")


# --- hashes of contents


@pytest.fixture
def hashes(folder: Path) -> ContentHashes:
    return ContentHashes(folder / "hashes.json")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    real = files.sha256

    def counting(path: Path) -> str:
        reads.append(str(path))
        return real(path)

    monkeypatch.setattr(files, "sha256", counting)
    return reads


def test_a_content_is_read_once_in_all_sessions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    file = folder / "base.bin"
    write_bytes(file, b"content")
    for _ in range(3):
        found = ContentHashes(folder / "hashes.json")(file)
        assert found == hashlib.sha256(b"content").hexdigest()
    assert len(reads) == 1


def test_a_changed_content_is_read_again(folder: Path, hashes: ContentHashes) -> None:
    file = folder / "base.bin"
    write_bytes(file, b"one")
    one = hashes(file)
    write_bytes(file, b"two")  # as long as before
    os.utime(file, ns=(1, 1))
    two = hashes(file)
    write_bytes(file, b"three")
    os.utime(file, ns=(1, 1))  # as old as before
    assert len({one, two, hashes(file)}) == 3


def test_a_copy_elsewhere_is_the_same_content(folder: Path, hashes: ContentHashes) -> None:
    for name in ("a.bin", "b.bin"):
        write_bytes(folder / name, b"content")
    assert hashes(folder / "a.bin") == hashes(folder / "b.bin")


def test_a_folder_is_the_names_and_contents_in_it(folder: Path, hashes: ContentHashes) -> None:
    for name in ("model", "copy", "renamed", "changed"):
        write_bytes(folder / name / "unet" / "a.bin", b"a")
        write_bytes(folder / name / "b.bin", b"b")
    (folder / "renamed" / "b.bin").rename(folder / "renamed" / "c.bin")
    write_bytes(folder / "changed" / "unet" / "a.bin", b"A")
    assert hashes(folder / "model") == hashes(folder / "copy")
    assert len({hashes(folder / name) for name in ("model", "renamed", "changed")}) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_broken_memory_is_begun_anew(folder: Path, content: bytes) -> None:
    write_bytes(folder / "base.bin", b"content")
    write_bytes(folder / "hashes.json", content)
    assert ContentHashes(folder / "hashes.json")(folder / "base.bin") == hashlib.sha256(b"content").hexdigest()
    assert len(json.loads((folder / "hashes.json").read_bytes())) == 1


def test_a_memory_that_cannot_be_written_is_an_error_with_its_cure(folder: Path) -> None:
    write_bytes(folder / "base.bin", b"content")
    write_bytes(folder / "no folder", b"")
    with pytest.raises(CacheError, match=r"cannot write the cache in .*no folder") as error:
        ContentHashes(folder / "no folder" / "hashes.json")(folder / "base.bin")
    assert "another cache_dir" in error.value.cure
