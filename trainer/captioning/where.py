"""Where captions are written, which ones are there already, and what hides them from training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..dataset.captions import Captions
from ..dataset.files import METADATA_NAME, Listing
from ..dataset.items import Problem
from ..errors import CaptionError


def target(listing: Listing, output: str | Path | None, format: str) -> Path:
    """The table, or the folder, that is written to."""
    path = listing.root if output is None else Path(os.path.abspath(Path(output).expanduser()))
    if path.suffix.lower() == ".csv" and not path.is_dir():
        if format != "csv":
            raise CaptionError(f"output: {path.name} is a table, but the format is txt", "Leave one of them out.")
        if not path.parent.is_dir():
            raise CaptionError(f"output: the folder {path.parent} does not exist", "Create it, or check the path.")
        return path
    if not path.is_dir():
        raise CaptionError(f"output: expected a .csv file or the folder of the images, got {path}")
    if format == "csv":
        if listing.metadata is not None and path == listing.root:
            return listing.metadata
        return path / METADATA_NAME
    if path.resolve() != listing.root.resolve():
        raise CaptionError(
            f"output: .txt files belong beside their images in {listing.root}, not in {path}",
            "Leave the output out, or name a .csv file.",
        )
    return listing.root


def former(listing: Listing, target: Path, format: str) -> tuple[dict[Path, tuple[str, ...]], list[Problem]]:
    """The captions that training would use with the output in place, and what is wrong with their sources."""
    if format == "csv" and not _is_found(listing, target):
        captions = Captions(listing, target if target.exists() else None, tables=False)
    else:
        captions = Captions(listing)
    found = {folder.path / name: captions.of(folder, name) for folder, name in listing}
    return {image: caption.texts for image, caption in found.items() if caption}, captions.problems


def _is_found(listing: Listing, target: Path) -> bool:
    """Whether training finds this table without being told of it."""
    return target.parent == listing.root and target.name.casefold() == METADATA_NAME


def hidden(listing: Listing, target: Path, format: str, written: Mapping[Path, tuple[str, ...]]) -> list[Problem]:
    """Tables that win over what was written: over .txt files each, over the dataset's table those of its subfolders."""
    if not written or (format == "csv" and not _is_found(listing, target)):
        return []
    tables = {folder.path / name for folder in listing.folders for name in folder.tables}
    if format == "csv":
        tables = {path for path in tables if path.parent != listing.root}
    captions = Captions(listing) if tables else None
    hidden: Counter[Path] = Counter()
    for folder, name in listing if captions else ():
        caption = captions.of(folder, name) if captions and folder.path / name in written else None
        if caption and caption.source in tables:
            hidden[caption.source] += 1
    problems: list[Problem] = []
    for path, count in hidden.items():
        one, many = ("the row", "the rows") if format == "csv" else ("the .txt file", "the .txt files")
        what = f"{one} of 1 image that was" if count == 1 else f"{many} of {count} images that were"
        message = f"wins over {what} written now; rename it to use what was written"
        problems.append(Problem(path, "caption-conflict", message))
    return problems
