"""Which caption belongs to which image.

An image's caption is the first of these that is not empty:

1. its row in the metadata file: the one named by ``metadata_path``, else ``metadata.csv`` in the folder;
2. ``<stem>.txt``;
3. ``<stem>.caption``.

So a table wins over single files, and it means the same whether it is named or found: what "Auto Caption"
wrote, or was edited by hand as the guide says, is what trains. Where a source that loses says something else,
that is reported (``caption-conflict``), never settled in silence. A table that names only some images leaves
the others to their single files.

A row's ``filename`` may be written without suffix (then it means every image of that name), in other case,
with ``/`` or ``\\``, and with the folders above it (``style_train/a.png``). Line breaks and runs of blanks
inside a caption become one blank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .files import Listing, fold
from .items import Problem
from .metadata import Metadata, Row, decode, read_metadata

#: A caption file above this size is not a caption.
MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, and the file that it was read from."""

    text: str
    source: Path


def contains_word(text: str, word: str) -> bool:
    """Whether ``word`` (one or more words) stands in ``text`` as a word, in whatever case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def with_trigger(caption: str, trigger_word: str) -> str:
    """The caption with the trigger word first (``trigger, caption``), unless it holds it already, as a word."""
    trigger = tidy(trigger_word)
    if not trigger or contains_word(caption, trigger):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def tidy(text: str) -> str:
    """One line, single blanks."""
    return " ".join(text.split())


def resolve(listing: Listing, metadata_path: Path | None = None) -> tuple[dict[Path, Caption], list[Problem]]:
    """Reads all captions of a folder, without the trigger word.

    Args:
        listing: the folder.
        metadata_path: the table to use instead of the folder's ``metadata.csv``.

    Returns:
        The captions by image (images without one are not in it), and what is wrong with their sources.

    Raises:
        DatasetError: the metadata file cannot be read.
    """
    problems: list[Problem] = []
    path = metadata_path if metadata_path is not None else listing.metadata
    table = _from_table(read_metadata(path), listing, problems) if path is not None else {}
    captions: dict[Path, Caption] = {}
    for image in listing.images:
        found = [table[image]] if image in table else []
        for sidecar in listing.sidecars.get(image, ()):
            text = _read_sidecar(sidecar, problems)
            if text:
                found.append(Caption(text, sidecar))
        if not found:
            continue
        captions[image] = used = found[0]
        for other in found[1:]:
            if other.text != used.text:
                message = f"{other.source.name} and {used.source.name} differ; {used.source.name} is used"
                problems.append(Problem(image, "caption-conflict", message))
    return captions, problems


def match_rows(metadata: Metadata, listing: Listing) -> list[tuple[Row, tuple[Path, ...]]]:
    """The usable rows of a table, each with the images that it names (none, where it names no image)."""
    names: dict[str, list[Path]] = {}
    folded: dict[str, list[Path]] = {}
    for image in listing.images:
        for key in (image.name, image.stem):
            names.setdefault(key, []).append(image)
            folded.setdefault(fold(key), []).append(image)
    matched = []
    for row in metadata.rows:
        if row.fault or not any(row.cells):
            continue
        filename = row.cells[metadata.filename_column]
        matched.append((row, _find(filename, metadata.path.parent, listing.root, names, folded)))
    return matched


def _find(
    filename: str, base: Path, root: Path, names: dict[str, list[Path]], folded: dict[str, list[Path]]
) -> tuple[Path, ...]:
    path = PurePosixPath(filename.replace("\\", "/"))
    if not path.name:
        return ()
    parent = path.parent
    inside = (
        parent == PurePosixPath(".")
        or fold(parent.name) == fold(root.name)
        or (base / parent).resolve() == root.resolve()
        or (root / parent).resolve() == root.resolve()
    )
    if not inside:
        return ()
    found: Sequence[Path] = names.get(path.name) or folded.get(fold(path.name)) or ()
    return tuple(found)


def _from_table(metadata: Metadata, listing: Listing, problems: list[Problem]) -> dict[Path, Caption]:
    table: dict[Path, Caption] = {}
    first: dict[Path, int] = {}
    for row in metadata.rows:
        if row.fault:
            problems.append(Problem(metadata.path, "bad-row", f"line {row.line}: {row.fault}"))
    for row, images in match_rows(metadata, listing):
        filename = row.cells[metadata.filename_column]
        if not images:
            what = f"no image is named {filename!r}" if filename else "the filename is empty"
            problems.append(Problem(metadata.path, "unknown-file", f"line {row.line}: {what}"))
        text = tidy(row.cells[metadata.prompt_column])
        for image in images:
            if image in first:
                message = f"line {row.line}: {image.name} has a row already, in line {first[image]}; that one is used"
                problems.append(Problem(metadata.path, "duplicate-row", message))
                continue
            first[image] = row.line
            if text:
                table[image] = Caption(text, metadata.path)
    return table


def _read_sidecar(path: Path, problems: list[Problem]) -> str:
    try:
        if not path.is_file():
            problems.append(Problem(path, "bad-caption", "is not a file (a folder, or a link to nothing)"))
            return ""
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            problems.append(Problem(path, "bad-caption", "is larger than 1 MiB, which is no caption"))
            return ""
        return tidy(decode(path.read_bytes()))
    except OSError as error:
        problems.append(Problem(path, "bad-caption", f"cannot be read: {error.strerror}"))
    except ValueError as error:
        problems.append(Problem(path, "bad-caption", f"{error}; save it as UTF-8"))
    return ""
