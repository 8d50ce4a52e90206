"""A data set for whoever looks at it picture by picture: what is to be trained of each, and what is said of it.

Plain data, compact: 5,000 images with captions of 80 characters are 0.8 MB of JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dataset import Dataset, ImageItem, scan
from ..dataset.buckets import cover
from ..dataset.captions import Captions
from ..dataset.files import SIDECAR_SUFFIXES, list_folder, stem
from ..dataset.findings import Finding
from ..dataset.lint import lint
from ..errors import DatasetError
from ..text import TextDataset
from ..text.lint import lint as lint_text

MOST_COMPARED = 1000
"""Images of a data set in which those that look alike are looked for: all are decoded for that."""
_LINES, _TOLD_EACH = 5, 200


@dataclass(frozen=True)
class Album:
    """Args: told: plain data, see ``album``. items: the images, by name."""

    told: dict[str, Any]
    items: dict[str, ImageItem]


def album(
    folder: Path,
    *,
    resolution: int = 512,
    trigger_word: str = "",
    captions: str = "auto",
    exclude: tuple[str, ...] = (),
) -> Album:
    """All images of a folder, those that are left out, too.

    Args:
        folder: of images.
        resolution: as in ``scan``.
        trigger_word: as in ``scan``; captions are told without it.
        captions: as in ``scan``.
        exclude: as in ``scan``.

    Returns:
        Told are ``images``, a row each: name, place in ``shapes``, captions, place in ``sources``, places in
        ``findings``, 12 digits of the content. ``shapes``: width, height, then those of the bucket, those after the
        resize, and left and top of the crop in it. ``sources``: a file's name; ``*.txt`` is the image's own, ``""``
        none. ``findings``: kind, message, number of files, first lines, and what is said of single images.
        ``excluded``: names. ``fault``: why it could not be trained on like this.

    Raises:
        DatasetError: it cannot be trained on, whatever is left out.
    """
    given: dict[str, Any] = {"resolution": resolution, "trigger_word": trigger_word, "captions": captions}
    whole, fault = scan(folder, **given), ""
    used: Dataset | None = whole
    if exclude:
        try:
            used = scan(folder, exclude=exclude, **given)
        except DatasetError as error:
            used, fault = None, error.message
    found = lint(used, resolution=resolution, alike=len(used.items) <= MOST_COMPARED).findings if used else ()
    listing = list_folder(folder)
    known = Captions(listing, source=captions)
    places = {f"{place.subset}/{name}".lstrip("/"): (place, name) for place, name in listing}
    # What is said of a caption file is said of its image.
    owners = {f"{p.subset}/{one}".lstrip("/"): image for image, (p, name) in places.items() for one in p.sidecars(name)}
    of: dict[str, list[int]] = {}
    for number, finding in enumerate(found):
        for name in dict.fromkeys(owners.get(name, name) for name in finding.names):
            of.setdefault(name, []).append(number)
    shapes: dict[tuple[int, ...], int] = {}
    sources: dict[str, int] = {"": 0}
    rows = []
    for item in whole.items:
        place, name = places[item.name]
        caption = known.of(place, name)
        source = "" if caption is None else _source(folder, caption.source, item.path)
        rows.append(
            [
                item.name,
                shapes.setdefault(_shape(item), len(shapes)),
                caption.texts if caption else (),
                sources.setdefault(source, len(sources)),
                of.get(item.name, []),
                item.content[:12],
            ]
        )
    told = {
        "images": rows,
        "shapes": list(shapes),
        "sources": list(sources),
        "findings": [_told(finding) for finding in found],
        "excluded": listing.without(exclude)[1],
        "fault": fault,
    }
    return Album(told, {item.name: item for item in whole.items})


def samples(dataset: TextDataset, after: int, most: int) -> dict[str, Any]:
    """Samples of text, some at a time.

    Returns:
        ``samples``: source, text, and (role, content) of each message; ``number`` of all; ``findings`` as in ``album``.
    """
    report = lint_text(dataset)
    return {
        "samples": [
            [one.source, one.text, [(message.role, message.content) for message in one.messages]]
            for one in dataset.samples[after : after + most]
        ],
        "number": len(dataset.samples),
        "summary": report.summary,
        "findings": [_told(finding) for finding in report.findings],
    }


def _shape(item: ImageItem) -> tuple[int, ...]:
    resized, corner = cover(item.size, item.bucket)
    return *item.size, *item.bucket, *resized, *corner


def _source(root: Path, file: Path, image: Path) -> str:
    for ending in SIDECAR_SUFFIXES:
        if file.name == f"{stem(image.name)}{ending}":
            return f"*{ending}"
    if file == image:
        return "name"
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def _told(finding: Finding) -> list[Any]:
    each = {}
    if len(finding.names) == len(finding.lines) <= _TOLD_EACH:
        said = zip(finding.names, finding.lines, strict=True)
        each = {name: line.removeprefix(f"{name}: ") for name, line in said if line != name}
    return [finding.kind, finding.message, len(finding.names or finding.lines), finding.lines[:_LINES], each]
