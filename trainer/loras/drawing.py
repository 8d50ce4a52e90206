"""Where a LoRA acts, as a picture: the norm of its change by block, and by block and kind of layer."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw

from .. import fonts
from ..lorafile import TITLES
from .files import Layers, root_sum
from .inspection import dora_note, kinds_of, norms

_INK, _FAINT, _PAPER = (30, 30, 30), (200, 206, 214), (255, 255, 255)
_BLUE, _PALE = (0x2B, 0x5C, 0x9E), (0xEE, 0xF2, 0xF7)
_LEFT, _CELL, _ROW, _BARS, _GAP = 140, 66, 30, 200, 14
_SIZE = 15


def picture(layers: Layers, before: Layers | None = None, strengths: Mapping[str, float] | None = None) -> Image.Image:
    """Bars of the norm by block, and below them a table of shades by kind of layer.

    Args:
        layers: of the LoRA.
        before: of the same one before its blocks were scaled: shown as pale bars behind.
        strengths: by block, what it was scaled by; told below its name.
    """
    old = norms(before or layers)
    new = dict.fromkeys(old, 0.0) | norms(layers)
    blocks = list(dict.fromkeys(place for place, _ in old))
    kinds = kinds_of(old)
    width = max(_LEFT + len(blocks) * _CELL + _GAP, 560)
    sheet = Image.new("RGB", (width, 44 + _BARS + 52 + len(kinds) * _ROW + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    title = _title(layers)
    _write(pen, (width / 2, 22), title, "mm", 17, room=width - 2 * _GAP)
    sums = {block: _sum(new, block) for block in blocks}
    formerly = {block: _sum(old, block) for block in blocks}
    floor, top = 44 + _BARS, max(*sums.values(), *formerly.values()) or 1.0
    for share in (0.0, 0.5, 1.0):
        y = floor - share * (_BARS - _GAP)
        pen.line((_LEFT, y, width - _GAP, y), _FAINT)
        _write(pen, (_LEFT - 8, y), f"{share * top:.2g}", "rm")
    _write(pen, (_GAP, floor - _BARS / 2), "norm of\nthe change", "lm")
    shades = max(new.values()) or 1.0
    for column, block in enumerate(blocks):
        x = _LEFT + column * _CELL
        for found, colour in ((formerly, _FAINT), (sums, _BLUE)):
            high = round(found[block] / top * (_BARS - _GAP))
            if high:
                pen.rectangle((x + 10, floor - high, x + _CELL - 10, floor), colour)
        _write(pen, (x + _CELL / 2, floor + 16), block, "mm")
        if strengths and block in strengths:
            _write(pen, (x + _CELL / 2, floor + 36), f"x {strengths[block]:g}", "mm")
        for row, kind in enumerate(kinds):
            if (value := new.get((block, kind))) is not None:
                y, share = floor + 52 + row * _ROW, value / shades
                colour = tuple(round(a + (b - a) * share) for a, b in zip(_PALE, _BLUE, strict=True))
                pen.rectangle((x, y, x + _CELL - 1, y + _ROW - 1), colour)
                ink = _PAPER if share > 0.55 else _INK
                _write(pen, (x + _CELL / 2, y + _ROW / 2), f"{value:.2g}", "mm", 13, ink)
    for row, kind in enumerate(kinds):
        _write(pen, (_LEFT - 8, floor + 52 + (row + 0.5) * _ROW), kind, "rm")
    return sheet


def _sum(found: Mapping[tuple[str, str], float], block: str) -> float:
    return root_sum([norm for (place, _), norm in found.items() if place == block])


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    anchor: str,
    size: int = _SIZE,
    ink: tuple[int, int, int] = _INK,
    room: float = float("inf"),
) -> None:
    font, text = fonts.fitting(text, size)
    while pen.textlength(text.split("\n")[0], font) > room and size > 8:
        size -= 1
        font, text = fonts.fitting(text, size)
    pen.text(place, text, ink, font, anchor=anchor)


def _title(layers: Layers) -> str:
    methods = " and ".join(dict.fromkeys(TITLES[layer.method] for layer in layers.values()))
    ranks = sorted({layer.rank for layer in layers.values() if layer.rank is not None})
    rank = f" of rank {'-'.join(dict.fromkeys(map(str, (ranks[0], ranks[-1]))))}" if ranks else ""
    return f"{methods}{rank}: {len(layers)} layers{dora_note(layers)}"
