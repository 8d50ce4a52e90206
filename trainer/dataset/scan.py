"""Scans a folder of images: what can be trained, at which size, with which caption, and what is wrong.

The folder is only read. No pixels are kept: an image costs about 2 kB (names, caption, size, hash), 50,000 some 100 MB.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..errors import DatasetError
from .buckets import bucket_for, check_resolution
from .captions import resolve, with_trigger
from .files import SIDECAR_SUFFIXES, Listing, Remembered, content_hash, list_folder
from .items import Dataset, ImageItem, Problem
from .pixels import Unusable, inspect

# Content hash and (width, height) of an image, or what is wrong with it.
_Fact = tuple[str, tuple[int, int]] | Problem
# Each one holds a decoded picture; decoding releases the interpreter's lock.
_THREADS = min(4, os.cpu_count() or 1)


def scan(
    folder: str | Path,
    *,
    metadata_path: str | Path | None = None,
    resolution: int = 512,
    trigger_word: str = "",
    repeats: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Reads a folder of images and captions.

    Every image is decoded once, so that a damaged one is found now and not in the middle of a run; files that
    did not change since the last scan of this process are not read again.

    Args:
        folder: the images lie directly in it.
        metadata_path: a table of captions; by default ``metadata.csv`` in the folder, where there is one.
        resolution: side of a square bucket in pixels; a multiple of 64.
        trigger_word: put in front of every caption that does not hold it already.
        repeats: how often each image is seen in an epoch.
        on_progress: called with (images done, images in all).

    Raises:
        DatasetError: nothing can be trained on, the metadata file cannot be read, or an argument is wrong.
    """
    check_resolution(resolution)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise DatasetError(f"repeats: expected a whole number of at least 1, got {repeats!r}")
    listing = list_folder(folder)
    captions, caption_problems = resolve(listing, _absolute(metadata_path))
    items: list[ImageItem] = []
    problems: list[Problem] = []
    seen: dict[str, Path] = {}
    copies: Counter[str] = Counter()
    for done, (path, facts) in enumerate(_facts(listing.images), start=1):
        if isinstance(facts, Problem):
            problems.append(facts)
        else:
            digest, size = facts
            content = digest[:32]
            copies[content] += 1
            if copies[content] > 1:
                message = f"has the same bytes as {seen[content].name}; both are trained"
                problems.append(Problem(path, "duplicate", message))
            seen.setdefault(content, path)
            caption = captions.get(path)
            if caption is None:
                problems.append(_no_caption(path, listing, with_trigger("", trigger_word)))
            items.append(
                ImageItem(
                    id=content if copies[content] == 1 else f"{content}-{copies[content]}",
                    path=path,
                    captions=(with_trigger(caption.text if caption else "", trigger_word),),
                    size=size,
                    bucket=bucket_for(size, resolution),
                    repeats=repeats,
                )
            )
        if on_progress is not None:
            on_progress(done, len(listing.images))
    if not items:
        raise _nothing_usable(listing, problems)
    return Dataset(listing.root, tuple(items), (*listing.problems, *caption_problems, *problems))


def fingerprint(folder: str | Path, metadata_path: str | Path | None = None) -> str:
    """Hash of everything in a folder that training depends on: names and bytes of images and of their captions.

    Cheap when asked again: hashes are remembered by (path, size, modification time).

    Returns:
        64 hex digits.

    Raises:
        DatasetError: the folder cannot be read or holds no image.
    """
    listing = list_folder(folder)
    table = _absolute(metadata_path) or listing.metadata
    digest = hashlib.sha256()
    for path in listing.images:
        for part in (path, *listing.sidecars.get(path, ())):
            _add(digest, part.name, part)
    if table is not None:
        _add(digest, "metadata", table)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, path: Path) -> None:
    try:
        content = content_hash(path)
    except OSError:
        content = "unreadable"
    # Both parts end in a byte that cannot be in them: a|bc is not ab|c.
    digest.update(os.fsencode(name) + b"\0" + content.encode() + b"\0")


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(os.path.abspath(Path(path).expanduser()))


def _inspect_kindly(path: Path) -> tuple[int, int] | tuple[str, str]:
    """Size of an image, or kind and message of what is wrong with it: an answer that can be remembered."""
    try:
        return inspect(path)
    except Unusable as error:
        return error.kind, error.message


_inspected: Remembered[tuple[int, int] | tuple[str, str]] = Remembered(_inspect_kindly)


def _fact(path: Path) -> _Fact:
    """Content hash and size of an image, or its problem."""
    try:
        first, second = _inspected(path)
        if isinstance(first, int) and isinstance(second, int):
            return content_hash(path), (first, second)
        return Problem(path, str(first), str(second))
    except FileNotFoundError:
        return Problem(path, "not-a-file", "is not a file (a folder, or a link to nothing)")
    except OSError as error:
        return Problem(path, "unreadable", f"cannot be read: {error.strerror}")


def _facts(paths: tuple[Path, ...]) -> Iterable[tuple[Path, _Fact]]:
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="darkroom-scan")
    # Not pool.map: a future for each of 50,000 images would weigh more than all that is known of them.
    waiting: deque[tuple[Path, Future[_Fact]]] = deque()
    try:
        for path in paths:
            waiting.append((path, pool.submit(_fact, path)))
            if len(waiting) > 4 * _THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        # On Ctrl-C, do not decode what is left first.
        pool.shutdown(cancel_futures=True)


def _no_caption(path: Path, listing: Listing, trained_with: str) -> Problem:
    present = [sidecar.name for sidecar in listing.sidecars.get(path, ())]
    if present:
        why = f"no caption: {' and '.join(present)} gave none"
    else:
        why = f"no caption: expected {path.stem}{SIDECAR_SUFFIXES[0]} or a row in metadata.csv"
    with_what = f"the trigger word {trained_with!r}" if trained_with else "the empty caption"
    return Problem(path, "no-caption", f"{why}; trained with {with_what}")


def _nothing_usable(listing: Listing, problems: list[Problem]) -> DatasetError:
    listed = "\n".join(f"  - {problem}" for problem in problems[:5])
    more = f"\n  - and {len(problems) - 5} more" if len(problems) > 5 else ""
    count = len(listing.images)
    what = "the only image" if count == 1 else f"none of the {count} images"
    verb = "cannot be used" if count == 1 else "can be used"
    return DatasetError(f"{listing.root}: {what} {verb}:\n{listed}{more}", "Put readable pictures into the folder.")
