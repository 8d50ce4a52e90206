"""A picture of a dataset as it will be trained: a row a bucket, and on each image what crop and mask leave of it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .. import fonts, sheet
from ..fonts import Font
from .buckets import cover
from .items import Dataset, ImageItem
from .pixels import Unusable, load_mask, thumbnail

_ROWS, _COLUMNS, _SIDE, _LINE = 16, 6, 176, 16
_PAPER, _INK, _FRAME = (255, 255, 255), (60, 60, 60), (208, 72, 20)


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


def contact_sheet(dataset: Dataset, *, rows: int = _ROWS, captions: bool = False) -> Image.Image:
    """Draws the fullest buckets: images with masks, then those that lose most. What is not trained is pale.

    Args:
        dataset: scanned.
        rows: buckets at most. Where there are fewer, the fuller ones have several rows.
        captions: whether the captions stand below the pictures.
    """
    buckets = list(by_bucket(dataset.items).items())[:rows]
    spare = rows - len(buckets)
    tiles: list[list[Image.Image]] = []
    labels: list[str] = []
    for (width, height), items in buckets:
        worst = sorted(items, key=lost, reverse=True)
        shown = sorted(worst, key=lambda item: not item.mask)
        more = min(spare, (len(shown) - 1) // _COLUMNS) if captions else 0
        spare -= more
        cells = [_tile(item, captions) for item in shown[: (more + 1) * _COLUMNS]]
        tiles += [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
        count = "1 image" if len(items) == 1 else f"{len(items)} images"
        most = "up to " if len(items) > 1 else ""
        much = f"{most}{lost(worst[0]):.0%}" if lost(worst[0]) >= 0.005 else "nothing"
        labels.append(f"{width}x{height}: {count}, {much} cropped")
        labels += [""] * more
    columns = max(len(row) for row in tiles)
    return sheet.labelled_grid(tiles, labels, [""] * columns, side=_SIDE)


def _tile(item: ImageItem, caption: bool) -> Image.Image:
    """The picture with its crop, and its name below, and its caption where that is wanted."""
    below = _LINE * (1 + caption)
    tile = Image.new("RGB", (_SIDE, _SIDE), _PAPER)
    try:
        image = thumbnail(item, _SIDE - below)
    except Unusable:
        return tile
    (width, height), (left, top) = cover(item.size, item.bucket)
    across, down = image.width / width, image.height / height
    right, bottom = left + item.bucket[0], top + item.bucket[1]
    box = round(left * across), round(top * down), round(right * across), round(bottom * down)
    pale = Image.blend(image, Image.new("RGB", image.size, _PAPER), 0.7)
    pale.paste(image.crop(box), box[:2], _mask(item, (box[2] - box[0], box[3] - box[1])))
    x, y = (_SIDE - image.width) // 2, (_SIDE - below - image.height) // 2
    tile.paste(pale, (x, y))
    pen = ImageDraw.Draw(tile)
    pen.rectangle((box[0] + x, box[1] + y, box[2] + x - 1, box[3] + y - 1), outline=_FRAME, width=2)
    texts = [f"{item.path.name}, {item.size[0]}x{item.size[1]}", *([item.captions[0]] if caption else ())]
    for number, text in enumerate(texts):
        font, shown = fonts.fitting(text, _LINE - 5)
        line = y + image.height + _LINE * (number + 0.5)
        pen.text((_SIDE / 2, line), _fitted(shown, font, _SIDE), _INK, font, anchor="mm")
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
