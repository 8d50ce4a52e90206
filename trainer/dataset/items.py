"""What a scanned dataset is made of. Plain, frozen values; no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .buckets import cover

#: Every kind of problem, and what becomes of the file that has it.
KINDS = {
    "bad-caption": "a caption file that cannot be read; the next source of captions is used",
    "bad-row": "a row of a metadata file that cannot be read; it is passed over",
    "caption-conflict": "two sources give different captions; the message says which one is used",
    "corrupt": "not a picture, or a damaged one; it is passed over",
    "decompression-bomb": "more pixels than can be decoded safely; it is passed over",
    "duplicate": "the same bytes as another image; both are trained",
    "duplicate-row": "a second row with the same caption for the same image; it is passed over",
    "empty": "a file of 0 bytes; it is passed over",
    "hidden": "a file, or a folder with images, that programs hide (.name, __MACOSX); it is passed over",
    "link-loop": "a link to a folder that is read already; it is passed over",
    "no-caption": "an image without a caption; it is trained with the trigger word, or the empty caption",
    "no-mask": "an image without the mask that was asked for; the whole of it is trained",
    "not-a-file": "a folder, a broken link or the like with an image's name; it is passed over",
    "orphan-caption": "a caption file that belongs to no image",
    "orphan-mask": "a mask that belongs to no image; it is passed over",
    "other-encoding": "a caption file that is not UTF-8; it is read as what it seems to be",
    "run-folder": "the folder of a training run inside the dataset; it is passed over",
    "too-small": "an image with a side under 64 pixels; it is passed over",
    "truncated": "a picture whose file ends too early; it is passed over",
    "unknown-excluded": "a name among the excluded images that none has; it changes nothing",
    "unknown-file": "a row of a metadata file that names no image, or not one; it is passed over",
    "unreadable": "a file or folder that the system does not let us read; it is passed over",
    "unsupported": "a kind of file that cannot be read in this version; it is passed over",
    "unused-mask": "mask files in a folder that is trained without masks; they are passed over",
}
#: The kinds that mean: this image, though it is there, is not trained.
PASSED_OVER = frozenset(
    {"corrupt", "decompression-bomb", "empty", "hidden", "link-loop", "not-a-file", "too-small", "truncated"}
    | {"run-folder", "unreadable", "unsupported"}
)


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image as it will be trained.

    Attributes:
        id: first 32 hex digits of the SHA-256 of the file's bytes. The second file with the same bytes (in
            the order of the dataset) has ``-2`` after it, the third ``-3``.
        path: absolute path of the image.
        captions: alternatives, the trigger word included in each; ``("",)`` where there is none.
        size: (width, height) in pixels, after EXIF rotation.
        bucket: (width, height) in pixels that the image is trained at; multiples of 64.
        repeats: how often it is seen in an epoch: the dataset's repeats times those of its folder (``10_name``).
        mask: which parts are trained: ``""`` all, ``"alpha"`` its own transparency, else the path of a mask file.
        mask_id: names the mask by content; ``""`` without one.
        subset: the folder that it lies in, below the dataset's, with ``/``; ``""`` for the dataset's own.
    """

    id: str
    path: Path
    captions: tuple[str, ...]
    size: tuple[int, int]
    bucket: tuple[int, int]
    repeats: int
    mask: str = ""
    mask_id: str = ""
    subset: str = ""

    @property
    def name(self) -> str:
        """What people know it by: its file's name, behind its subset."""
        return _name(self.subset, self.path)

    @property
    def content(self) -> str:
        """The id without the mark of a duplicate."""
        return self.id.partition("-")[0]

    @property
    def crop(self) -> tuple[int, int]:
        """(left, top) corner of the bucket in the picture after its resize, in pixels."""
        return cover(self.size, self.bucket)[1]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the user should know about one file. ``kind`` is a key of ``KINDS``.

    ``subset`` is the folder that it lies in, as in ``ImageItem``.
    """

    path: Path
    kind: str
    message: str
    subset: str = ""

    @property
    def name(self) -> str:
        """What people know the file by: its name, behind its subset."""
        return _name(self.subset, self.path)

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True)
class Dataset:
    """A folder of images, scanned. ``items`` and ``problems`` have a deterministic order.

    ``captions`` says where those come from (``captions.SOURCES``); ``untriggered`` are the images of which a caption
    lacked the trigger word, which was put in front of it; ``excluded`` the names of those that are there, and left out.
    """

    root: Path
    items: tuple[ImageItem, ...]
    problems: tuple[Problem, ...]
    captions: str = "auto"
    untriggered: frozenset[Path] = frozenset()
    excluded: tuple[str, ...] = ()


def _name(subset: str, path: Path) -> str:
    return f"{subset}/{path.name}" if subset else path.name
