"""Every kind of bad image is named, with its exact message, and passed over; the good one beside it is trained."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.dataset import KINDS, scan
from trainer.errors import DatasetError

from .conftest import noise

NOT_A_PICTURE = "is not a picture that can be read (PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF)"
NOT_A_FILE = "is not a file (a folder, or a link to nothing)"
DAMAGED = "is damaged and cannot be decoded"
CUT_OFF = "ends too early: the file is cut off"
BOMB = "has more than 178,956,970 pixels"


def encoded(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    data = BytesIO()
    (image or noise(200, 150)).save(data, format, **options)
    return data.getvalue()


def half(format: str) -> bytes:
    data = encoded(format)
    return data[: len(data) // 2]


def flipped(data: bytes, start: float = 0.3) -> bytes:
    """The same bytes, 64 of them wrong."""
    at = int(len(data) * start)
    return data[:at] + bytes(255 - value for value in data[at : at + 64]) + data[at + 64 :]


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with hardly any pixels behind."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def floats(mode: str) -> Image.Image:
    return Image.fromarray(np.full((80, 80), 70_000, np.int32 if mode == "I" else np.float32))


BAD: dict[str, tuple[str, bytes, str, str]] = {
    "zero bytes": ("bad.png", b"", "empty", "is empty (0 bytes)"),
    "text": ("bad.png", b"this is a text", "corrupt", NOT_A_PICTURE),
    "zeros": ("bad.jpg", bytes(5000), "corrupt", NOT_A_PICTURE),
    "a web page": (
        "bad.jpg",
        b"\n <!DOCTYPE html><html><body>404</body></html>",
        "corrupt",
        "is a web page, not a picture: the download went wrong",
    ),
    "only a signature": ("bad.png", b"\x89PNG\r\n\x1a\n", "corrupt", NOT_A_PICTURE),
    "PNG cut off": ("bad.png", half("PNG"), "truncated", CUT_OFF),
    "PNG cut off in its header": ("bad.png", encoded("PNG")[:20], "truncated", CUT_OFF),
    "PNG damaged": ("bad.png", flipped(encoded("PNG")), "corrupt", DAMAGED),
    "JPEG cut off": ("bad.jpg", half("JPEG"), "truncated", CUT_OFF),
    "JPEG without its last bytes": ("bad.jpg", encoded("JPEG")[:-30], "truncated", CUT_OFF),
    "JPEG cut off and named .png": ("bad.png", half("JPEG"), "truncated", CUT_OFF),
    "BMP cut off": ("bad.bmp", half("BMP"), "truncated", CUT_OFF),
    "TIFF cut off": ("bad.tif", half("TIFF"), "truncated", CUT_OFF),
    "GIF cut off": ("bad.gif", half("GIF"), "truncated", CUT_OFF),
    "WebP cut off": ("bad.webp", half("WEBP"), "corrupt", DAMAGED),
    "a size without the pixels": ("bad.png", png_of_size(100, 100), "truncated", CUT_OFF),
    "a bomb": ("bad.png", png_of_size(20_000, 20_000), "decompression-bomb", BOMB),
    "nearly a bomb": ("bad.png", png_of_size(12_000, 12_000), "truncated", CUT_OFF),
    "too small": (
        "bad.png",
        encoded("PNG", noise(63, 400)),
        "too-small",
        "is too small: 63x400 pixels, expected at least 64x64",
    ),
    "one pixel": (
        "bad.gif",
        encoded("GIF", noise(1, 1)),
        "too-small",
        "is too small: 1x1 pixels, expected at least 64x64",
    ),
    "a phone's HEIC": (
        "bad.jpg",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "unsupported",
        "is a HEIC picture, which cannot be read; save it as PNG or JPEG",
    ),
    "a HEIC that says so": (
        "bad.HEIC",
        b"\0\0\0\x18ftypheic",
        "unsupported",
        "cannot be read; save it as PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF",
    ),
    "PostScript in disguise": (
        "bad.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n",
        "corrupt",
        NOT_A_PICTURE,
    ),
    "another format of Pillow": ("bad.png", encoded("PPM"), "corrupt", NOT_A_PICTURE),
    "float pixels": (
        "bad.tiff",
        encoded("TIFF", floats("F")),
        "unsupported",
        "has floating-point pixels; save it with 8 bit a channel",
    ),
    "32 bit pixels": (
        "bad.tiff",
        encoded("TIFF", floats("I")),
        "unsupported",
        "has 32 bit a pixel; save it with 8 bit a channel",
    ),
    "Lab colours": (
        "bad.tiff",
        encoded("TIFF", Image.new("LAB", (80, 80))),
        "unsupported",
        "has Lab colours; save it as RGB",
    ),
    "hidden": (".bad.png", encoded("PNG"), "hidden", "is a hidden file (its name begins with a dot)"),
    "a Mac's shadow of a file": (
        "._good.png",
        b"\0\x05\x16\x07" + bytes(80),
        "hidden",
        "is a hidden file (its name begins with a dot)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bytes_are_named_and_passed_over(case: str, draw: Callable[..., Path], folder: Path) -> None:
    name, data, kind, message = BAD[case]
    good = draw("good.png")
    (folder / "good.txt").write_text("a good one", encoding="utf-8")
    (folder / name).write_bytes(data)
    dataset = scan(folder, resolution=64)
    assert [item.path for item in dataset.items] == [good]
    (problem,) = dataset.problems
    assert (problem.path, problem.kind, problem.message) == (folder / name, kind, message)
    assert str(problem) == f"{name}: {message}"


@pytest.mark.parametrize("case", BAD)
def test_a_folder_of_nothing_else_is_an_error_that_says_why(case: str, folder: Path) -> None:
    name, data, kind, message = BAD[case]
    (folder / name).write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        scan(folder, resolution=64)
    if kind == "hidden" or name.endswith(".HEIC"):
        assert caught.value.message == f"{folder}: no image that can be used; passed over:\n  - {name}: {message}"
    else:
        assert caught.value.message == f"{folder}: the only image cannot be used:\n  - {name}: {message}"


def test_a_bomb_where_the_host_has_switched_pillows_limit_off(
    draw: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("good.png")
    (folder / "bad.png").write_bytes(png_of_size(60_000, 60_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert ("bad.png", "decompression-bomb") in {(p.path.name, p.kind) for p in scan(folder, resolution=64).problems}


def _folder(path: Path) -> None:
    path.mkdir()


def _link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("gone.png"))


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_folder, _link_to_nothing, _link_to_itself, _pipe])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links and pipes are made with POSIX calls")
def test_what_is_no_file_is_named(make: Callable[[Path], None], draw: Callable[..., Path], folder: Path) -> None:
    draw("good.png")
    make(folder / "bad.png")
    (problem,) = [p for p in scan(folder, resolution=64).problems if p.path.name == "bad.png"]
    assert problem.message in (NOT_A_FILE, "cannot be read: Too many levels of symbolic links")
    assert problem.kind in ("not-a-file", "unreadable")


def test_a_file_that_the_system_refuses(
    draw: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("good.png")
    bad = draw("bad.png")
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == bad:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    # As root, chmod takes nothing away.
    monkeypatch.setattr(Path, "open", refuse)
    (problem,) = [p for p in scan(folder, resolution=64).problems if p.path == bad]
    assert (problem.kind, problem.message) == ("unreadable", "cannot be read: Permission denied")


def test_every_kind_that_is_tested_here_is_known() -> None:
    assert {kind for _, _, kind, _ in BAD.values()} <= set(KINDS)
