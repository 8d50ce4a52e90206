"""What the bytes of images say: looked at in threads, and remembered."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import DatasetError
from .ahead import ahead, threads
from .buckets import bucket_for
from .files import Folder, Listing
from .items import ImageItem
from .pixels import Unusable, inspect, load_mask
from .remembered import Remembered, content_hash


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a usable image.

    Attributes:
        content: first 32 hex digits of the SHA-256 of its bytes.
        size: (width, height) in pixels after EXIF rotation.
        mask: as ``ImageItem.mask``.
        mask_content: as ``ImageItem.mask_id``.
        fault: why the mask that it has cannot be used.
    """

    content: str
    size: tuple[int, int]
    mask: str = ""
    mask_content: str = ""
    fault: str = ""


def facts(listing: Listing, resolution: int, mask: str) -> Iterator[tuple[Folder, str, Fact | Unusable]]:
    """Looks at every image of a listing, in its order.

    Args:
        listing: the images.
        resolution: which part of a picture is trained decides whether its mask is empty.
        mask: as in ``scan``.

    Returns:
        Folder, name, and what is known of the image or what is wrong with it.
    """
    looked_at = ahead(lambda image: _fact(*image, resolution, mask), listing, 4 * threads())
    return ((folder, name, fact) for (folder, name), fact in looked_at)


# Many images are of one size, which is then kept once.
_sizes: dict[tuple[int, int], tuple[int, int]] = {}


def _size(size: Sequence[int]) -> tuple[int, int]:
    width, height = size
    return _sizes.setdefault((width, height), (width, height))


class _Wrong(NamedTuple):
    kind: str
    message: str


def _inspect_kindly(path: str) -> tuple[int, int] | _Wrong:
    """Size of an image, or what is wrong with it: an answer that can be remembered."""
    try:
        return _size(inspect(Path(path)))
    except Unusable as error:
        return _Wrong(error.kind, error.message)


# What is wrong is not kept: another version of Pillow may read it.
_inspected: Remembered[tuple[int, int] | _Wrong] = Remembered(
    _inspect_kindly, "sizes", lambda answer: None if isinstance(answer, _Wrong) else answer, _size
)


def _fact(folder: Folder, name: str, resolution: int, mask: str) -> Fact | Unusable:
    path = os.path.join(folder.path, name)
    try:
        answer = _inspected(path)
        if isinstance(answer, _Wrong):
            return Unusable(*answer)
        content = content_hash(path)
    except FileNotFoundError:
        return Unusable("not-a-file", "is not a file (a folder, or a link to nothing)")
    except OSError as error:
        return Unusable("unreadable", f"cannot be read: {error.strerror}")
    fact = Fact(content, answer)
    if mask == "alpha":
        return _masked(fact, path, "alpha", content, resolution)
    if mask == "files" and name in folder.masks:
        file = os.path.join(folder.path, folder.masks[name])
        try:
            return _masked(fact, path, file, content_hash(file), resolution)
        except OSError as error:
            return replace(fact, fault=f"{file}: cannot be read: {error.strerror or error}")
    return fact


def _masked(fact: Fact, path: str, mask: str, content: str, resolution: int) -> Fact:
    """The fact with its mask; without one, where the whole picture is opaque."""
    used, fault = _judged(path if mask == "alpha" else mask, path, mask, fact.size, resolution)
    if fault:
        return replace(fact, fault=fault)
    return replace(fact, mask=mask, mask_content=content) if used else fact


def _judge(_: str, path: str, mask: str, size: tuple[int, int], resolution: int) -> tuple[bool, str]:
    """Whether there is a mask that leaves something out; and why it cannot be used."""
    item = ImageItem("", Path(path), (), size, bucket_for(size, resolution), 1, mask=mask)
    try:
        values = load_mask(item)
    except DatasetError as error:
        return False, error.message
    return values is not None and (mask != "alpha" or values.min().item() < 1), ""


_judged: Remembered[tuple[bool, str]] = Remembered(
    _judge, "masks", lambda answer: None if answer[1] else answer[0], lambda used: (bool(used), "")
)
