"""Images that look alike: one picture saved twice, in another size or format, or a little brighter.

Each picture is shrunk to 9 x 9 gray pixels and described by which of two neighbours is brighter, to the right and
downwards: 128 bits (Krawetz' "difference hash", both ways). Two pictures look alike if at most 7 bits differ and
their colours, shrunk to 8 x 8, are about the same. Of eight bands of 16 bits at least one is then equal in both, so
only images that share a band are compared: 50,000 in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image

from .items import ImageItem
from .pixels import Unusable, thumbnail

_MOST_BITS, _MOST_COLOUR = 7, 16.0
# So many images that share a band (plain ones) are compared with their neighbours by hash only.
_LARGE, _NEIGHBOURS = 2000, 50
_THREADS = 4
_POPCOUNT = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(1, dtype=np.uint8)

Bits = npt.NDArray[np.uint16]
Colours = npt.NDArray[np.uint8]


def near_duplicates(
    items: Sequence[ImageItem], on_progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, int]]:
    """Pairs of images that look alike, as indices: each image at most once as the second, with the first like it.

    Images of the same bytes are left out: the scan reports them. What cannot be decoded any more is passed over.

    Args:
        items: the images.
        on_progress: called with (images done, images in all).
    """
    bits = np.zeros((len(items), 8), np.uint16)
    colours = np.zeros((len(items), 192), np.uint8)
    usable = np.zeros(len(items), bool)
    for index, found in enumerate(_signatures(items)):
        if found is not None:
            bits[index], colours[index], usable[index] = *found, True
        if on_progress is not None:
            on_progress(index + 1, len(items))
    contents = [item.content for item in items]
    first: dict[int, int] = {}
    for one, other in _pairs(bits, colours, np.flatnonzero(usable)):
        if contents[one] != contents[other]:
            first[other] = min(one, first.get(other, one))
    return sorted((one, other) for other, one in first.items())


def alike(items: Sequence[ImageItem]) -> list[list[ImageItem]]:
    """The images in groups of those that are the same, or look alike; most groups are of one image."""
    root = {item.content: item.content for item in items}

    def found(content: str) -> str:
        while root[content] != content:
            content = root[content]
        return content

    for one, other in near_duplicates(items):
        root[found(items[other].content)] = found(items[one].content)
    groups: dict[str, list[ImageItem]] = {}
    for item in items:
        groups.setdefault(found(item.content), []).append(item)
    return list(groups.values())


def _signatures(items: Sequence[ImageItem]) -> Iterator[tuple[Bits, Colours] | None]:
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="darkroom-lint") as pool:
        for start in range(0, len(items), 64):
            yield from pool.map(_signature, items[start : start + 64])


def _signature(item: ImageItem) -> tuple[Bits, Colours] | None:
    known = _known.get(item.content) or _look(item)
    if known is not None:
        _known[item.content] = known
    return known


# By content, so that a graph which is queued again need not look again: half a kilobyte an image.
_known: dict[str, tuple[Bits, Colours]] = {}


def _look(item: ImageItem) -> tuple[Bits, Colours] | None:
    try:
        image = thumbnail(item, 36)
    except Unusable:
        return None
    gray = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), np.int16)
    right, down = gray[:8, 1:] > gray[:8, :-1], gray[1:, :8] > gray[:-1, :8]
    colours = np.asarray(image.resize((8, 8), Image.Resampling.BOX)).reshape(-1)
    return np.packbits(np.concatenate([right.ravel(), down.ravel()])).view(np.uint16), colours


def _pairs(bits: Bits, colours: Colours, usable: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Pairs (smaller index, larger one) that look alike; one may come several times."""
    for band in range(bits.shape[1]):
        # By this band, and within it by the others: what is alike lies together.
        keys = [bits[usable, column] for column in range(bits.shape[1]) if column != band]
        order = usable[np.lexsort([*keys, bits[usable, band]])]
        edges = np.flatnonzero(np.diff(bits[order, band].astype(np.int32))) + 1
        sizes = np.diff(np.concatenate([[0], edges, [len(order)]]))
        # How many behind it each one is compared with: those that share the band.
        reach = np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(len(order))
        reach = np.where(np.repeat(sizes, sizes) > _LARGE, np.minimum(reach, _NEIGHBOURS), reach)
        at, distance = np.arange(len(order)), 0
        while len(at := at[reach[at] > distance]):
            distance += 1
            one, other = order[at], order[at + distance]
            near = _POPCOUNT[bits[one] ^ bits[other]].sum(1) <= _MOST_BITS
            one, other = one[near], other[near]
            alike = _far(colours[one], colours[other]) <= _MOST_COLOUR
            yield from zip(np.minimum(one, other)[alike].tolist(), np.maximum(one, other)[alike].tolist(), strict=True)


def _far(these: Colours, those: Colours) -> npt.NDArray[np.float32]:
    """Root mean square of the differences, of 255."""
    return np.sqrt(((these.astype(np.float32) - those) ** 2).mean(1))
