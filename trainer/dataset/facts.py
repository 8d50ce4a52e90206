"""What the bytes of images say: looked at in threads, and remembered."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import DatasetError
from .buckets import bucket_for
from .files import Folder, Listing
from .items import ImageItem
from .pixels import Unusable, inspect, load_mask
from .remembered import Remembered, content_hash

# Each one holds a decoded picture; decoding releases the interpreter's lock.
_THREADS = min(4, os.cpu_count() or 1)


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

    Yields:
        Folder, name, and what is known of the image or what is wrong with it.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="darkroom-scan")
    # Not pool.map: a future for each of 50,000 images would weigh more than all that is known of them.
    waiting: deque[tuple[Folder, str, Future[Fact | Unusable]]] = deque()
    try:
        for folder, name in listing:
            waiting.append((folder, name, pool.submit(_fact, folder, name, resolution, mask)))
            if len(waiting) > 4 * _THREADS:
                first, image, future = waiting.popleft()
                yield first, image, future.result()
        for first, image, future in waiting:
            yield first, image, future.result()
    finally:
        # On Ctrl-C, do not decode what is left first.
        pool.shutdown(cancel_futures=True)


# Many images are of one size, which is then kept once.
_sizes: dict[tuple[int, int], tuple[int, int]] = {}


class _Wrong(NamedTuple):
    kind: str
    message: str


def _inspect_kindly(path: str) -> tuple[int, int] | _Wrong:
    """Size of an image, or what is wrong with it: an answer that can be remembered."""
    try:
        size = inspect(Path(path))
        return _sizes.setdefault(size, size)
    except Unusable as error:
        return _Wrong(error.kind, error.message)


_inspected: Remembered[tuple[int, int] | _Wrong] = Remembered(_inspect_kindly)


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
    item = ImageItem("", Path(path), (), fact.size, bucket_for(fact.size, resolution), 1, mask=mask)
    try:
        values = load_mask(item)
    except DatasetError as error:
        return replace(fact, fault=error.message)
    if values is None or (mask == "alpha" and values.min() == 1):
        return fact
    return replace(fact, mask=mask, mask_content=content)
