"""What a scanned dataset is made of. Plain, frozen values; no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Every kind of problem, and what becomes of the file that has it.
KINDS = {
    "bad-caption": "a caption file that cannot be read; the next source of captions is used",
    "bad-row": "a row of a metadata file that cannot be read; it is passed over",
    "caption-conflict": "two sources give different captions; the message says which one is used",
    "corrupt": "not a picture, or a damaged one; it is passed over",
    "decompression-bomb": "more pixels than can be decoded safely; it is passed over",
    "duplicate": "the same bytes as another image; both are trained",
    "duplicate-row": "a second row for the same image; it is passed over",
    "empty": "a file of 0 bytes; it is passed over",
    "hidden": "a file whose name begins with a dot; it is passed over",
    "no-caption": "an image without a caption; it is trained with the trigger word, or the empty caption",
    "not-a-file": "a folder, a broken link or the like with an image's name; it is passed over",
    "orphan-caption": "a caption file that belongs to no image",
    "subfolder": "a folder with images inside the folder; they are not used",
    "too-small": "an image with a side under 64 pixels; it is passed over",
    "truncated": "a picture whose file ends too early; it is passed over",
    "unknown-file": "a row of a metadata file that names no image of the folder; it is passed over",
    "unreadable": "a file that the system does not let us read; it is passed over",
    "unsupported": "a kind of file that cannot be read in this version; it is passed over",
}


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image as it will be trained.

    Attributes:
        id: first 32 hex digits of the SHA-256 of the file's bytes. The second file with the same bytes (in
            the order of the dataset) has ``-2`` after it, the third ``-3``.
        path: absolute path of the image.
        captions: resolved, the trigger word included; ``("",)`` where there is none.
        size: (width, height) in pixels, after EXIF rotation.
        bucket: (width, height) in pixels that the image is trained at; multiples of 64.
        repeats: how often it is seen in an epoch.
    """

    id: str
    path: Path
    captions: tuple[str, ...]
    size: tuple[int, int]
    bucket: tuple[int, int]
    repeats: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the user should know about one file. ``kind`` is a key of ``KINDS``."""

    path: Path
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.message}"


@dataclass(frozen=True)
class Dataset:
    """A folder of images, scanned. ``items`` and ``problems`` have a deterministic order."""

    root: Path
    items: tuple[ImageItem, ...]
    problems: tuple[Problem, ...]
