"""What lies in a dataset's folder, by name only; and content hashes that are remembered.

Nothing here opens a file for writing, and nothing decodes a picture.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import DatasetError
from ..files import sha256
from .items import Problem

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
#: Pictures that a user may expect to be read, and are not: named instead of passed over in silence.
UNSUPPORTED_SUFFIXES = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw"}
)
#: Suffixes of caption files beside their image; the first one found wins.
SIDECAR_SUFFIXES = (".txt", ".caption")
METADATA_NAME = "metadata.csv"

_FORMATS_TEXT = "PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF"
# A file that changed so recently may change again without a new time stamp (2 s on FAT): not remembered.
_FRESH_NS = 2_000_000_000
# Entries of subfolders that are looked at before giving up: someone may have named the root of a disk.
_LOOK_LIMIT = 10_000

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The files of a dataset's folder that matter, by name.

    Attributes:
        root: the folder, absolute.
        images: files with an image's suffix, ordered by name (case-folded, then exact).
        sidecars: caption files of each image, in the order of ``SIDECAR_SUFFIXES``; not of those without.
        metadata: ``metadata.csv`` of the folder, if any.
        problems: hidden and unsupported files, subfolders with images, caption files without an image.
    """

    root: Path
    images: tuple[Path, ...]
    sidecars: Mapping[Path, tuple[Path, ...]]
    metadata: Path | None
    problems: tuple[Problem, ...]


def fold(name: str) -> str:
    """A name for comparisons: other case, or other composition of its letters (macOS), is the same name."""
    return unicodedata.normalize("NFC", name).casefold()


def list_folder(folder: str | Path) -> Listing:
    """Lists a dataset's folder.

    Raises:
        DatasetError: it does not exist, is not a folder, cannot be read, or holds no image.
    """
    root = Path(os.path.abspath(Path(folder).expanduser()))
    if not root.exists():
        raise DatasetError(f"{root}: the folder does not exist", "Check the path of the images.")
    if not root.is_dir():
        raise DatasetError(f"{root}: is a file, expected a folder of images", "Name the folder that it lies in.")
    try:
        names = sorted(os.listdir(root), key=lambda name: (name.casefold(), name))
    except OSError as error:
        raise DatasetError(f"{root}: the folder cannot be read: {error.strerror}") from None
    images: list[Path] = []
    captions: list[Path] = []
    folders: list[Path] = []
    problems: list[Problem] = []
    metadata = None
    for name in names:
        path = root / name
        suffix = path.suffix.lower()
        if name.startswith("."):
            if suffix in IMAGE_SUFFIXES:
                problems.append(Problem(path, "hidden", "is a hidden file (its name begins with a dot)"))
        elif suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix in UNSUPPORTED_SUFFIXES:
            problems.append(Problem(path, "unsupported", f"cannot be read; save it as {_FORMATS_TEXT}"))
        elif suffix in SIDECAR_SUFFIXES:
            captions.append(path)
        elif name.casefold() == METADATA_NAME and metadata is None:
            metadata = path
        elif name.casefold() == "metadata.jsonl":
            problems.append(Problem(path, "unsupported", "is not read in this version; expected metadata.csv"))
        elif path.is_dir():
            folders.append(path)
    nested = [path for path in folders if _holds_images(path)]
    if not images:
        raise _no_images(root, nested, problems)
    for path in nested:
        problems.append(Problem(path, "subfolder", "holds images that are not used: only the folder itself is read"))
    sidecars, orphans = _match(images, captions)
    for path in orphans:
        problems.append(Problem(path, "orphan-caption", f"belongs to no image: no image is named {path.stem!r}"))
    return Listing(root, tuple(images), sidecars, metadata, tuple(problems))


def _match(images: list[Path], captions: list[Path]) -> tuple[dict[Path, tuple[Path, ...]], list[Path]]:
    """Caption files of each image by stem (exact before folded), and the caption files that no image uses."""
    exact: dict[tuple[str, str], Path] = {}
    folded: dict[tuple[str, str], Path] = {}
    for path in captions:
        exact.setdefault((path.stem, path.suffix.lower()), path)
    own = {path for image in images for suffix in SIDECAR_SUFFIXES if (path := exact.get((image.stem, suffix)))}
    for path in captions:
        # On Linux A.png and a.png are two images: a.txt belongs to one of them.
        if path not in own:
            folded.setdefault((fold(path.stem), path.suffix.lower()), path)
    sidecars: dict[Path, tuple[Path, ...]] = {}
    for image in images:
        found = [
            exact.get((image.stem, suffix)) or folded.get((fold(image.stem), suffix)) for suffix in SIDECAR_SUFFIXES
        ]
        if any(found):
            sidecars[image] = tuple(path for path in found if path is not None)
    used = {path for paths in sidecars.values() for path in paths}
    return sidecars, [path for path in captions if path not in used]


def _holds_images(folder: Path) -> bool:
    looked = 0
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                return True
        looked += len(folders) + len(files)
        if looked > _LOOK_LIMIT:
            break
    return False


def _no_images(root: Path, nested: list[Path], problems: list[Problem]) -> DatasetError:
    if nested:
        names = ", ".join(path.name for path in nested[:3]) + (", ..." if len(nested) > 3 else "")
        return DatasetError(
            f"{root}: no image in the folder itself, but its subfolders hold images: {names}",
            f"Name one of them, such as {nested[0]}; nested folders are not read in this version.",
        )
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems[:5])
        return DatasetError(f"{root}: no image that can be used; passed over:\n{listed}")
    return DatasetError(f"{root}: no image in the folder", f"Put pictures ({_FORMATS_TEXT}) into it.")


class Remembered(Generic[T]):
    """A function of a file, whose answers are remembered while the file's size and time stamp stay the same.

    One answer a path, in this process. A file that changed less than 2 s ago is always asked anew.
    """

    def __init__(self, function: Callable[[Path], T]) -> None:
        self._function = function
        self._answers: dict[str, tuple[int, int, T]] = {}

    def __call__(self, path: Path) -> T:
        """The function's answer for this file as it is now.

        Raises:
            OSError: the file cannot be read.
        """
        stat = path.stat()
        key = os.path.abspath(path)
        known = self._answers.get(key)
        if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
            return known[2]
        answer = self._function(path)
        if time.time_ns() - stat.st_mtime_ns > _FRESH_NS:
            self._answers[key] = (stat.st_size, stat.st_mtime_ns, answer)
        return answer


def _sha256(path: Path) -> str:
    if not path.is_file():
        # Opening a pipe would wait for ever.
        raise OSError("not a file")
    return sha256(path)


#: SHA-256 of a file's bytes, in hex.
content_hash: Remembered[str] = Remembered(_sha256)
