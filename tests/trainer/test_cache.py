"""The cache: keys that cover what shaped an entry, entries that are whole, the oldest out first."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from trainer import cache as caches
from trainer.cache import Cache, conditioning_key, default_folder, latents_key
from trainer.errors import CacheError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "c\u00e4che \u7f13\u5b58")


def entry(seed: int = 0) -> dict[str, torch.Tensor]:
    return {"latents": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))}


def key(number: int) -> str:
    return latents_key("vae", f"image {number}", (64, 64))


def test_what_is_stored_is_loaded(cache: Cache) -> None:
    assert not cache.has("latents", key(0))
    cache.store("latents", key(0), entry())
    assert cache.has("latents", key(0))
    assert not cache.has("conditioning", key(0))
    assert torch.equal(cache.load("latents", key(0))["latents"], entry()["latents"])
    assert Cache(cache.folder).has("latents", key(0))


def test_entries_are_fp32_whatever_encoded_them(cache: Cache) -> None:
    cache.store("conditioning", key(0), {"hidden": torch.ones(1, 77, 4, dtype=torch.bfloat16)})
    assert cache.load("conditioning", key(0))["hidden"].dtype == torch.float32


def test_a_key_covers_all_that_shapes_an_entry() -> None:
    latents = {
        latents_key("vae", "a", (64, 128)),
        latents_key("other vae", "a", (64, 128)),
        latents_key("vae", "b", (64, 128)),
        latents_key("vae", "a", (128, 64)),
    }
    conditioning = {
        conditioning_key("clip", "a cat"),
        conditioning_key("other clip", "a cat"),
        conditioning_key("clip", "a  cat"),
        conditioning_key("clip", ""),
    }
    assert len(latents | conditioning) == 8
    # Frozen: another key for the same thing would encode everybody's data sets anew.
    assert latents_key("vae", "a", (64, 128)) == "a982fed89dd48642df38919f4bd4d110"
    assert conditioning_key("clip", "a cat") == "766ab1f68d54bb3ac8b4be0d9ec12ad5"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_and_not_stored(cache: Cache, value: float) -> None:
    broken = {"latents": torch.tensor([1.0, value])}
    with pytest.raises(CacheError, match=r"encoding gave latents that are not finite \(latents\)") as error:
        cache.store("latents", key(0), broken)
    assert "in fp16 it overflows" in error.value.cure
    assert not cache.has("latents", key(0))


def test_a_missing_entry_is_said(cache: Cache) -> None:
    with pytest.raises(CacheError, match=f"the cached latents {key(0)} are gone from") as error:
        cache.load("latents", key(0))
    assert error.value.cure == "start the run again"


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_broken_entry_is_said_and_removed(cache: Cache, damage: str) -> None:
    cache.store("latents", key(0), entry())
    path = cache.path("latents", key(0))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[:-40], "garbage": b"\x00" * 200}[damage])
    with pytest.raises(CacheError, match=r"were broken .* and are removed") as error:
        cache.load("latents", key(0))
    assert "made anew" in error.value.cure
    assert not cache.has("latents", key(0))
    cache.store("latents", key(0), entry())
    assert cache.load("latents", key(0))


@pytest.mark.parametrize(
    "failure", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O error")]
)
def test_an_entry_that_cannot_be_read_now_is_kept(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    cache.store("latents", key(0), entry())

    def refuse(_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(caches, "load_file", refuse)
        with pytest.raises(CacheError, match=f"cannot be read: {failure.strerror}"):
            cache.load("latents", key(0))
        patch.setattr(caches, "load_file", lambda _: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            cache.load("latents", key(0))
    assert cache.load("latents", key(0))


def test_a_full_disk_is_said_and_leaves_no_half_entry(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.files.os.fsync", full)
    with pytest.raises(CacheError, match=r"cannot write the cache in .*: No space left") as error:
        cache.store("latents", key(0), entry())
    assert "another cache_dir" in error.value.cure
    assert [p for p in cache.folder.rglob("*") if p.is_file()] == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError, match="cannot write the cache"):
        Cache(tmp_path / "file").store("latents", key(0), entry())


# --- its size


def filled(cache: Cache, count: int) -> int:
    """Stores ``count`` entries, each used a second after the one before; returns the size of one."""
    for number in range(count):
        cache.store("latents", key(number), entry(number))
        os.utime(cache.path("latents", key(number)), (1000 + number, 1000 + number))
    return cache.path("latents", key(0)).stat().st_size


def there(cache: Cache, count: int) -> list[int]:
    return [n for n in range(count) if cache.path("latents", key(n)).exists()]


def test_what_was_used_longest_ago_goes_first(cache: Cache) -> None:
    size = filled(cache, 5)
    assert cache.has("latents", key(0))  # which is to use it
    assert Cache(cache.folder, 3 * size).trim(()) == 2 * size
    assert there(cache, 5) == [0, 3, 4]


def test_within_its_limit_nothing_goes(cache: Cache) -> None:
    size = filled(cache, 3)
    assert Cache(cache.folder, 3 * size).trim(()) == 0
    assert there(cache, 3) == [0, 1, 2]


def test_no_more_goes_than_must(cache: Cache) -> None:
    size = filled(cache, 3)
    assert Cache(cache.folder, 3 * size - 1).trim(()) == size
    assert there(cache, 3) == [1, 2]


def test_the_run_at_hand_keeps_its_entries_whatever_the_limit(cache: Cache) -> None:
    size = filled(cache, 4)
    keep = {("latents", key(0)), ("latents", key(2))}
    assert Cache(cache.folder, size).trim(keep) == 2 * size  # type: ignore[arg-type]
    assert there(cache, 4) == [0, 2]
    # The same key of the other kind is another entry.
    assert Cache(cache.folder, 0).trim({("conditioning", key(0))}) == 2 * size
    assert there(cache, 4) == []


def test_what_another_run_reads_stays_whatever_the_limit(cache: Cache) -> None:
    size = filled(cache, 3)
    cache.load("latents", key(0))
    assert Cache(cache.folder, 0).trim(()) == 2 * size
    assert there(cache, 3) == [0]


def test_an_entry_that_another_run_has_open_is_passed_over(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where an open file cannot be removed."""
    size = filled(cache, 3)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == cache.path("latents", key(0)):
            raise PermissionError(errno.EACCES, "in use")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert Cache(cache.folder, 2 * size).trim(()) == size
    assert there(cache, 3) == [0, 2]


def test_other_files_in_the_folder_are_let_be(cache: Cache) -> None:
    filled(cache, 1)
    others = [cache.folder / "hashes.json", cache.folder / "latents" / "readme.txt"]
    for path in others:
        path.write_bytes(b"x" * 10_000)
    Cache(cache.folder, 0).trim(())
    assert all(path.exists() for path in others)


# --- several runs at once


def test_writers_of_the_same_entry_do_not_disturb_each_other(cache: Cache) -> None:
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(15):
                cache.store("latents", key(0), entry())
                assert torch.equal(cache.load("latents", key(0))["latents"], entry()["latents"])
                cache.trim({("latents", key(0))})
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [p.name for p in cache.folder.rglob("*") if p.is_file()] == [f"{key(0)}.safetensors"]


def test_an_entry_that_another_run_stored_and_has_open_is_as_good(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where an open file cannot be replaced; entries of one key are equal."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "in use")

    cache.store("latents", key(0), entry())
    monkeypatch.setattr("trainer.files.os.replace", refuse)
    cache.store("latents", key(0), entry())
    with pytest.raises(CacheError, match="cannot write the cache"):
        cache.store("latents", key(1), entry())


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/lora-darkroom"),
        ("linux", {}, "/home/someone/.cache/lora-darkroom"),
        ("darwin", {}, "/home/someone/Library/Caches/lora-darkroom"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lora-darkroom"),
        ("win32", {}, "/home/someone/AppData/Local/lora-darkroom"),
    ],
)
def test_the_default_folder_is_the_user_s_cache(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    monkeypatch.setattr(caches.sys, "platform", platform)
    assert default_folder() == Path(expected)
