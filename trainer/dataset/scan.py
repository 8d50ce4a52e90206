"""Scans a folder of images: what can be trained, at which size, with which captions, and what is wrong.

The folder is only read, and no pixels are kept: what stays of an image are names, captions, sizes and a hash, about
1.5 kB, so that 50,000 cost some 75 MB more than 50 (``benchmarks/dataset_memory.py``).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import DatasetError
from .buckets import bucket_for, check_resolution
from .captions import Captions, with_trigger
from .facts import facts
from .files import METADATA_NAME, Listing, list_folder
from .items import Dataset, ImageItem, Problem
from .pixels import Unusable
from .remembered import content_hash, keep, recall

#: Where masks come from: nowhere, the pictures' transparency, or files.
MASKS = ("no", "alpha", "files")
_NO_MASK = {
    "alpha": "has no transparency where it is trained: the whole of it is trained",
    "files": "has no mask (name.mask.png beside name.png, or masks/name.png): the whole of it is trained",
}
# Faults that an error lists.
_LISTED = 5


def scan(
    folder: str | Path,
    *,
    metadata_path: str | Path | None = None,
    resolution: int = 512,
    trigger_word: str = "",
    repeats: int = 1,
    captions: str = "auto",
    mask: str = "no",
    fallback: str = "",
    exclude: Iterable[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
    index: Path | None = None,
) -> Dataset:
    """Reads a folder of images and captions, and the folders in it.

    Every image is decoded once, so that a damaged one is found now and not in the middle of a run; files that
    did not change since the last scan of this process, or of one with the same ``index``, are not read again.

    Args:
        folder: the images lie in it or in folders below (see ``files``).
        metadata_path: a table of captions, ``.csv`` or ``.jsonl``; by default those that lie in the folders. The
            dataset's own ``metadata.csv`` may be named without being there.
        resolution: side of a square bucket in pixels; a multiple of 64.
        trigger_word: put in front of every caption that does not hold it already.
        repeats: how often each image is seen in an epoch; multiplied by that of its folder (``10_name``).
        captions: where they come from, a key of ``SOURCES``; an image for which that has none is named, but not with
            ``none``.
        mask: one of ``MASKS``: ``alpha`` trains what is opaque, ``files`` what is white in ``<stem>.mask.png``,
            ``<stem>_mask.png`` or ``masks/<stem>.png``. An image without one is trained as a whole.
        fallback: the caption of images that have none.
        exclude: names of images that are left as if they were not there, relative to the folder; they are not decoded.
        on_progress: called with (images done, images in all).
        index: a file that keeps what is known of pictures for the next process; made when missing.

    Raises:
        DatasetError: nothing can be trained on, a table or a mask cannot be used, or an argument is wrong.
    """
    check_resolution(resolution)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise DatasetError(f"repeats: expected a whole number of at least 1, got {repeats!r}")
    if mask not in MASKS:
        raise DatasetError(f"mask: expected one of {', '.join(MASKS)}, got {mask!r}")
    listing = list_folder(folder)
    # Captions are read with the excluded images known: their rows and files belong to somebody.
    known = Captions(listing, _table(listing.root, metadata_path), source=captions)
    listing, excluded, unknown = listing.without(exclude)
    if excluded and not len(listing):
        raise DatasetError(f"{listing.root}: all {len(excluded)} images are excluded", "Include some of them again.")
    if index is not None:
        recall(index)
    alone = (with_trigger(fallback, trigger_word),)
    total = len(listing)
    items: list[ImageItem] = []
    problems: list[Problem] = []
    faults: list[str] = []
    said: dict[str, str] = {}  # the same of many images: kept once
    first: dict[str, int] = {}
    copies: Counter[str] = Counter()
    untriggered: set[Path] = set()
    for done, (place, name, fact) in enumerate(facts(listing, resolution, mask), start=1):
        path = place.path / name
        if isinstance(fact, Unusable):
            problems.append(Problem(path, fact.kind, fact.message, place.subset))
        else:
            content = fact.content
            if (former := first.setdefault(content, len(items))) < len(items):
                copies[content] += 1
                message = f"has the same bytes as {items[former].name}; both are trained"
                problems.append(Problem(path, "duplicate", message, place.subset))
            caption = known.of(place, name)
            if caption is None and captions != "none":
                message = _no_caption(captions, place.sidecars(name), alone[0], trigger_word)
                message = said.setdefault(message, message)
                problems.append(Problem(path, "no-caption", message, place.subset))
            texts = _with_triggers(caption.texts, trigger_word) if caption else alone
            if caption and texts != caption.texts:
                untriggered.add(path)
            if fact.fault:
                faults.append(fact.fault)
            elif mask != "no" and not fact.mask:
                problems.append(Problem(path, "no-mask", _NO_MASK[mask], place.subset))
            items.append(
                ImageItem(
                    id=f"{content}-{copies[content] + 1}" if content in copies else content,
                    path=path,
                    captions=texts,
                    size=fact.size,
                    bucket=bucket_for(fact.size, resolution),
                    repeats=repeats * place.repeats,
                    mask=fact.mask,
                    mask_id=fact.mask_content,
                    subset=place.subset,
                )
            )
        if on_progress is not None:
            on_progress(done, total)
    if index is not None:
        keep(index)
    if not items:
        raise _nothing_usable(listing, problems)
    if faults:
        raise _bad_masks(listing.root, faults)
    before = [listing.placed(p) for p in (*listing.problems, *_unused_masks(listing, mask), *known.problems)]
    before += [_unknown(listing.root, name) for name in unknown]
    return Dataset(
        listing.root, tuple(items), (*dict.fromkeys(before), *problems), captions, frozenset(untriggered), excluded
    )


def fingerprint(
    folder: str | Path, metadata_path: str | Path | None = None, *, mask: str = "no", index: Path | None = None
) -> str:
    """Hash of everything in a folder that training depends on: names and bytes of images, captions and masks.

    Cheap when asked again: hashes are remembered by (path, size, modification time), with ``index`` as in ``scan``.

    Returns:
        64 hex digits.

    Raises:
        DatasetError: the folder cannot be read or holds no image.
    """
    listing = list_folder(folder)
    table = _table(listing.root, metadata_path)
    if index is not None:
        recall(index)
    digest = hashlib.sha256()
    for place in listing.folders:
        for name in place.images:
            masks = (place.masks[name],) if mask == "files" and name in place.masks else ()
            for part in (name, *place.sidecars(name), *masks):
                _add(digest, f"{place.subset}/{part}", place.path / part)
        for part in place.tables if table is None else ():
            _add(digest, f"{place.subset}/{part}", place.path / part)
    if table is not None:
        _add(digest, "metadata", table)
    if index is not None:
        keep(index)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, path: Path) -> None:
    try:
        content = content_hash(path)
    except OSError:
        content = "unreadable"
    # Both parts end in a byte that cannot be in them: a|bc is not ab|c.
    digest.update(os.fsencode(name) + b"\0" + content.encode() + b"\0")


def _table(root: Path, path: str | Path | None) -> Path | None:
    """The named table. The dataset's own need not be there: the captions may all lie beside the images."""
    if path is None:
        return None
    table = Path(os.path.abspath(Path(path).expanduser()))
    return None if table == root / METADATA_NAME and not table.exists() else table


def _unknown(root: Path, name: str) -> Problem:
    return Problem(root, "unknown-excluded", f"has no image {name!r}, which is to be left out")


def _with_triggers(texts: tuple[str, ...], trigger_word: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(with_trigger(text, trigger_word) for text in texts))


_EXPECTED = {
    "auto": "expected a .txt file of its name or a row in metadata.csv",
    "table": "expected a row in the table",
    "files": "expected a .txt file of its name",
    "names": "its name has no words",
}


def _no_caption(source: str, sidecars: tuple[str, ...], trained_with: str, trigger_word: str) -> str:
    if sidecars and source in ("auto", "files"):
        why = f"no caption: {' and '.join(sidecars)} gave none"
    else:
        why = f"no caption: {_EXPECTED[source]}"
    what = "the trigger word " if trained_with == with_trigger("", trigger_word) else ""
    with_what = f"{what}{trained_with!r}" if trained_with else "the empty caption"
    return f"{why}; trained with {with_what}"


def _unused_masks(listing: Listing, mask: str) -> Iterator[Problem]:
    for place in listing.folders:
        if place.masks and mask != "files":
            count = len(set(place.masks.values()))
            what = "1 mask file that is" if count == 1 else f"{count} mask files that are"
            yield Problem(place.path, "unused-mask", f"holds {what} not used: mask is {mask}")


def _listed(lines: Sequence[object]) -> str:
    more = f"\n  - and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return "\n".join(f"  - {line}" for line in lines[:_LISTED]) + more


def _bad_masks(root: Path, faults: list[str]) -> DatasetError:
    what = "1 mask cannot be used" if len(faults) == 1 else f"{len(faults)} masks cannot be used"
    return DatasetError(
        f"{root}: {what}:\n{_listed(faults)}",
        "A mask has the shape of its picture, and white where the picture is trained; mend it, or remove it.",
    )


def _nothing_usable(listing: Listing, problems: list[Problem]) -> DatasetError:
    count = len(listing)
    what = "the only image cannot be used" if count == 1 else f"none of the {count} images can be used"
    message = f"{listing.root}: {what}:\n{_listed(problems)}"
    return DatasetError(message, "Put readable pictures into the folder.")
