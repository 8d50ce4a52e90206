"""Fonts for texts in pictures: pillow's own, and a font of the machine where that lacks a character."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Parts of the names of fonts that have Chinese, in the order of preference; then such with many other letters.
_WANTED = (
    "msyh", "notosanscjk", "sourcehansans", "notosanssc", "pingfang", "hiragino sans gb", "stheiti", "simhei", "simsun",
    "wqy", "droidsansfallback", "notoserifcjk", "arial unicode", "dejavusans.", "segoeui.", "arial.",
)  # fmt: skip
_MISSING = "\U0010ffff"  # no font has it: it is drawn as whatever a font draws for what it lacks


def fitting(text: str, size: int) -> tuple[Font, str]:
    """A font that has every character of a text, and the text.

    Where no font of the machine has one, the character stands as its code, such as ``\\u4e2d``: ugly, but two texts
    that differ stay different.

    Args:
        text: may have several lines.
        size: in pixels.
    """
    own = ImageFont.load_default(size=size)
    best, lacking = own, _lacking(own, text)
    for path in _files() if lacking else ():
        font = _opened(path, size)
        missing = lacking if font is None else _lacking(font, text)
        if font is not None and len(missing) < len(lacking):
            best, lacking = font, missing
    return best, "".join(c.encode("ascii", "backslashreplace").decode() if c in lacking else c for c in text)


def _lacking(font: Font, text: str) -> set[str]:
    """The characters of a text that a font does not have."""
    nothing = {_drawn(font, _MISSING), b""}
    return {c for c in set(text) if ord(c) > 126 and not c.isspace() and _drawn(font, c) in nothing}


def _drawn(font: Font, character: str) -> bytes:
    mask: Any = font.getmask(character)
    return bytes(mask)


@functools.lru_cache(32)
def _opened(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, size)
    except OSError:
        return None


@functools.lru_cache(1)
def _files() -> tuple[Path, ...]:
    """Fonts of this machine that may help, the best first."""
    found: list[tuple[int, Path]] = []
    for path in (path for folder in _folders() for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES):
        name = path.name.lower()
        rank = next((number for number, part in enumerate(_WANTED) if name.startswith(part)), None)
        if rank is not None:
            found.append((rank * 2 + ("regular" not in name), path))
    return tuple(path for _, path in sorted(found))


_SUFFIXES = {".ttf", ".ttc", ".otf"}


def _folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        yield home / "AppData" / "Local" / "Microsoft" / "Windows" / "Fonts"
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts")
    else:
        yield from (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local" / "share" / "fonts")
        yield home / ".fonts"
