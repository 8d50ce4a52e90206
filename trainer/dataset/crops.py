"""A picture of a dataset as it will be trained: a row a bucket, and on each image what crop and mask leave of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .. import fonts, sheet
from ..fonts import Font
from .buckets import cover
from .findings import counted
from .items import Dataset, ImageItem
from .pixels import Unusable, load_mask, thumbnail

_ROWS, _COLUMNS, _SIDE, _LINE, _HEAD = 16, 6, 176, 16, 30
_FRAME = (208, 72, 20)
_Color = tuple[int, int, int]


class _Look(NamedTuple):
    paper: _Color
    ink: _Color


_LIGHT, _DARK = _Look((255, 255, 255), (60, 60, 60)), _Look((34, 34, 38), (205, 205, 205))


def lost(item: ImageItem) -> float:
    """The part of a picture's area that its crop takes away, 0 to 1."""
    (width, height), _ = cover(item.size, item.bucket)
    return 1 - item.bucket[0] * item.bucket[1] / (width * height)


def by_bucket(items: Sequence[ImageItem]) -> dict[tuple[int, int], list[ImageItem]]:
    """The images of each bucket, the fullest bucket first."""
    found: dict[tuple[int, int], list[ImageItem]] = {}
    for item in items:
        found.setdefault(item.bucket, []).append(item)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def contact_sheet(dataset: Dataset) -> Image.Image:
    """Draws the fullest buckets: images with masks, then those that lose most. What is not trained is pale."""
    tiles: list[list[Image.Image]] = []
    labels: list[str] = []
    for bucket, items in list(by_bucket(dataset.items).items())[:_ROWS]:
        tiles.append([_tile(item, [_name(item)], _LIGHT) for item in _worst_first(items)[:_COLUMNS]])
        labels.append(_told(bucket, items))
    columns = max(len(row) for row in tiles)
    return sheet.labelled_grid(tiles, labels, [""] * columns, side=_SIDE)


def gallery(dataset: Dataset, *, rows: int = 6, columns: int = 4) -> Image.Image:
    """The same for a narrow place on a dark page: the bucket in a line above its images, captions below them.

    Args:
        dataset: scanned.
        rows: of images at most, together. Where there are fewer buckets, the fuller ones have several.
        columns: images in a row.
    """
    buckets = list(by_bucket(dataset.items).items())[:rows]
    spare = rows - len(buckets)
    strips: list[tuple[str, list[Image.Image]]] = []
    for bucket, items in buckets:
        shown = _worst_first(items)
        more = min(spare, (len(shown) - 1) // columns)
        spare -= more
        cells = [_tile(i, [_name(i), i.captions[0]], _DARK) for i in shown[: (more + 1) * columns]]
        for start in range(0, len(cells), columns):
            strips.append(("" if start else _told(bucket, items), cells[start : start + columns]))
    height = sum(_SIDE + _LINE + (_HEAD if text else 0) for text, _ in strips)
    picture = Image.new("RGB", (columns * _SIDE, height), _DARK.paper)
    pen, y = ImageDraw.Draw(picture), 0
    for text, cells in strips:
        if text:
            font, text = fonts.fitting(text, _HEAD - 8)
            pen.text((6, y + _HEAD / 2), text, _DARK.ink, font, anchor="lm")
            y += _HEAD
        for number, cell in enumerate(cells):
            picture.paste(cell, (number * _SIDE, y))
        y += _SIDE + _LINE
    return picture


def _worst_first(items: Sequence[ImageItem]) -> list[ImageItem]:
    """Those with masks, then those that lose most by their crop."""
    return sorted(items, key=lambda item: (not item.mask, -lost(item)))


def _name(item: ImageItem) -> str:
    return f"{item.path.name}, {item.size[0]}x{item.size[1]}"


def _told(bucket: tuple[int, int], items: Sequence[ImageItem]) -> str:
    """A bucket in words: how many images, and how much of them is cropped."""
    count = counted(len(items), "image")
    most, up_to = max(map(lost, items)), "up to " if len(items) > 1 else ""
    return f"{bucket[0]}x{bucket[1]}: {count}, {f'{up_to}{most:.0%}' if most >= 0.005 else 'nothing'} cropped"


def _tile(item: ImageItem, lines: Sequence[str], look: _Look) -> Image.Image:
    """The picture with its crop, and lines of text below."""
    below = _LINE * len(lines)
    tile = Image.new("RGB", (_SIDE, _SIDE + _LINE * (len(lines) - 1)), look.paper)
    try:
        image = thumbnail(item, _SIDE - _LINE)
    except Unusable:
        return tile
    (width, height), (left, top) = cover(item.size, item.bucket)
    across, down = image.width / width, image.height / height
    right, bottom = left + item.bucket[0], top + item.bucket[1]
    box = round(left * across), round(top * down), round(right * across), round(bottom * down)
    pale = Image.blend(image, Image.new("RGB", image.size, look.paper), 0.7)
    pale.paste(image.crop(box), box[:2], _mask(item, (box[2] - box[0], box[3] - box[1])))
    x, y = (_SIDE - image.width) // 2, (tile.height - below - image.height) // 2
    tile.paste(pale, (x, y))
    pen = ImageDraw.Draw(tile)
    pen.rectangle((box[0] + x, box[1] + y, box[2] + x - 1, box[3] + y - 1), outline=_FRAME, width=2)
    for number, text in enumerate(lines):
        font, shown = fonts.fitting(text, _LINE - 5)
        line = y + image.height + _LINE * (number + 0.5)
        pen.text((_SIDE / 2, line), _fitted(shown, font, _SIDE), look.ink, font, anchor="mm")
    return tile


def _mask(item: ImageItem, size: tuple[int, int]) -> Image.Image | None:
    values = load_mask(item)
    return None if values is None else Image.fromarray((values * 255).byte().numpy()).resize(size)


def _fitted(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 1 and font.getlength(f"{text[: kept // 2]}...{text[-(kept // 2) :]}") > width:
        kept -= 1
    return f"{text[: kept // 2]}...{text[-(kept // 2) :]}"
