"""What lies in a dataset's folder and the folders below it, by name only.

Nothing has to be renamed or moved. Every folder below is read, whatever it is called, but for those that programs
hide; ``10_name`` means that its images are seen ten times as often (kohya's repeats). A picture's captions, mask and
tables may lie beside it; so may these folders:

- ``masks`` or ``mask``, beside images: masks of those images, by stem. Never trained as images.
- ``.name``, ``__MACOSX``, ``@eaDir``, ``$RECYCLE.BIN``: passed over.
- a run of ours (``job.yaml``), whose samples would be trained else: passed over. If that is the dataset's own folder,
  its ``samples``, ``checkpoints`` and ``logs`` are.

A link to a folder is followed, unless that folder is read already. Nothing here opens a file for writing, and nothing
decodes a picture.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DatasetError
from .items import PASSED_OVER, Problem

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
#: Pictures that a user may expect to be read, and are not: named instead of passed over in silence.
UNSUPPORTED_SUFFIXES = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw"}
)
#: Suffixes of caption files beside their image; the first one found wins.
SIDECAR_SUFFIXES = (".txt", ".caption")
METADATA_NAME = "metadata.csv"
#: Tables of captions; the first one found in a folder wins.
TABLE_NAMES = (METADATA_NAME, "metadata.jsonl")
#: What stands behind the stem of a mask beside its image, and the folders of masks. The first one found wins.
MASK_MARKS = (".mask", "-masklabel", "_mask")
MASK_FOLDERS = ("masks", "mask")

#: What lies in the folder of a run, and its folders: of a run into the dataset's own folder, these are passed over.
RUN_FILE = "job.yaml"
RUN_FOLDERS = ("samples", "checkpoints", "logs")

#: Folders of systems and programs, by their folded names.
HIDDEN_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})
# Without a zero in front, which numbers folders, and not as long as a year.
_REPEATS = re.compile(r"([1-9]\d{0,2})_")
_FORMATS_TEXT = "PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF"
# Entries of a hidden folder that are looked at for images.
_LOOK_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of a dataset, in names of files.

    Attributes:
        path: absolute.
        subset: the same below the dataset's folder, with ``/``; ``""`` for that folder itself.
        repeats: what its name and those of the folders above it ask for.
        images: ordered by name (case-folded, then exact).
        captions: caption files that belong to an image.
        odd: the caption files of those images where they are called otherwise than ``<stem>.txt``, in their order.
        masks: of each image that has one, relative to the folder.
        tables: in the order of ``TABLE_NAMES``.
    """

    path: Path
    subset: str
    repeats: int
    images: tuple[str, ...]
    captions: frozenset[str] = frozenset()
    odd: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    def sidecars(self, image: str) -> tuple[str, ...]:
        """The caption files of an image, in the order of ``SIDECAR_SUFFIXES``."""
        return self.odd.get(image) or _plain_sidecars(image, self.captions)


@dataclass(frozen=True)
class Listing:
    """The files of a dataset that matter, by name.

    Attributes:
        root: the dataset's folder, absolute.
        folders: those with images or tables; the dataset's own first.
        problems: hidden and unsupported files, links that lead back, caption files and masks without an image.
    """

    root: Path
    folders: tuple[Folder, ...]
    problems: tuple[Problem, ...]

    def __iter__(self) -> Iterator[tuple[Folder, str]]:
        """Every image: its folder and its name."""
        return ((folder, image) for folder in self.folders for image in folder.images)

    def __len__(self) -> int:
        """How many images there are."""
        return sum(len(folder.images) for folder in self.folders)

    @property
    def metadata(self) -> Path | None:
        """The CSV table of the dataset's own folder, if there is one."""
        own = next((folder.tables for folder in self.folders if not folder.subset), ())
        return next((self.root / name for name in own if name.casefold() == METADATA_NAME), None)

    def without(self, names: Iterable[str]) -> tuple[Listing, tuple[str, ...], tuple[str, ...]]:
        """The listing without some images.

        Args:
            names: relative to the root, with ``/`` or ``\\``; in other case where there is no exact one.

        Returns:
            The listing, the images that are left out, and the names that are none of an image.
        """
        known = [f"{place.subset}/{image}".lstrip("/") for place, image in self]
        exact, folded = set(known), {fold(name): name for name in reversed(known)}
        left: set[str] = set()
        unknown: list[str] = []
        for given in names:
            name = given.strip().replace("\\", "/").removeprefix("./")
            found = name if name in exact else folded.get(fold(name))
            if found:
                left.add(found)
            elif name:
                unknown.append(given.strip())
        if not left:
            return self, (), tuple(unknown)

        def kept(place: Folder) -> tuple[str, ...]:
            return tuple(image for image in place.images if f"{place.subset}/{image}".lstrip("/") not in left)

        folders = tuple(replace(place, images=kept(place)) for place in self.folders)
        return replace(self, folders=folders), tuple(name for name in known if name in left), tuple(unknown)

    def placed(self, problem: Problem) -> Problem:
        """The problem with the folder that its file lies in, for its text."""
        parent = problem.path.parent
        if parent == self.root or not parent.is_relative_to(self.root):
            return problem
        return replace(problem, subset=parent.relative_to(self.root).as_posix())


def fold(name: str) -> str:
    """A name for comparisons: other case, or other composition of its letters (macOS), is the same name."""
    return unicodedata.normalize("NFC", name).casefold()


def stem(name: str) -> str:
    """A file's name without its suffix."""
    return os.path.splitext(name)[0]


def suffix(name: str) -> str:
    """A file's suffix in small letters, with the dot."""
    return os.path.splitext(name)[1].lower()


def list_folder(folder: str | Path) -> Listing:
    """Lists a dataset's folder, and those below it.

    Raises:
        DatasetError: it does not exist, is not a folder, cannot be read, or holds no image.
    """
    root = Path(os.path.abspath(Path(folder).expanduser()))
    if not root.exists():
        raise DatasetError(f"{root}: the folder does not exist", "Check the path of the images.")
    if not root.is_dir():
        raise DatasetError(f"{root}: is a file, expected a folder of images", "Name the folder that it lies in.")
    folders: list[Folder] = []
    problems: list[Problem] = []

    def visit(path: Path, subset: str, repeats: int, names: list[str]) -> list[str]:
        if subset and RUN_FILE in names:
            problems.append(Problem(path, "run-folder", "is the folder of a run: its pictures are samples"))
            return []
        if RUN_FILE in names:
            for name in (name for name in RUN_FOLDERS if name in names):
                names.remove(name)
                if _holds_images(path / name):
                    problems.append(Problem(path / name, "run-folder", "is of a run: its pictures are samples"))
        found, below = _read(path, subset, repeats, names, problems)
        if found.images or found.tables:
            folders.append(found)
        return below

    walk(root, visit, lambda problem, subset: problems.append(problem))
    if not any(found.images for found in folders):
        raise _no_images(root, problems)
    folders.sort(key=lambda f: [(part.casefold(), part) for part in f.subset.split("/")])
    # A problem lies in the folder that its file lies in; those of the dataset's own come first.
    problems.sort(key=lambda p: [(part.casefold(), part) for part in p.path.parts[len(root.parts) : -1]])
    return Listing(root, tuple(folders), tuple(problems))


def walk(
    root: Path,
    visit: Callable[[Path, str, int, list[str]], Iterable[str]],
    told: Callable[[Problem, str], None],
) -> None:
    """Visits a folder and those below it, each once, whatever links lead where.

    Args:
        root: absolute.
        visit: given a folder, the same below ``root`` (``""`` for itself), what the folders' names repeat, and the
            names of what is in it, in order; returns the names of the folders that are to be visited, the last first.
        told: given why a folder is not visited, and that folder below ``root``.

    Raises:
        DatasetError: ``root`` itself cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    # Links wait until all folders are read: of two ways to a folder, the one without a link counts.
    waiting, links = [(root, "", 1)], deque[tuple[Path, str, int]]()
    while waiting or links:
        path, subset, repeats = waiting.pop() if waiting else links.popleft()
        try:
            stat = os.stat(path)
            if (stat.st_dev, stat.st_ino) in seen:
                told(Problem(path, "link-loop", "is a link to a folder that is read already"), subset)
                continue
            seen.add((stat.st_dev, stat.st_ino))
            names = sorted(os.listdir(path), key=lambda name: (name.casefold(), name))
        except OSError as error:
            if path == root:
                raise DatasetError(f"{root}: the folder cannot be read: {error.strerror}") from None
            told(Problem(path, "unreadable", f"the folder cannot be read: {error.strerror}"), subset)
            continue
        for name in visit(path, subset, repeats, names):
            child = path / name, f"{subset}/{name}" if subset else name, repeats * repeats_of(name)
            (links if os.path.islink(child[0]) else waiting).append(child)


def repeats_of(name: str) -> int:
    """How often a folder's name asks for what is in it: 10 for ``10_name``, else 1."""
    found = _REPEATS.match(name)
    return int(found[1]) if found else 1


def _read(path: Path, subset: str, repeats: int, names: list[str], problems: list[Problem]) -> tuple[Folder, list[str]]:
    """One folder, and the names of the folders in it that are to be read too."""
    pictures: list[str] = []
    captions: list[str] = []
    below: list[str] = []
    tables: dict[str, str] = {}
    for name in names:
        ending = suffix(name)
        if name.startswith("."):
            if ending in IMAGE_SUFFIXES:
                problems.append(Problem(path / name, "hidden", "is a hidden file (its name begins with a dot)"))
            elif _holds_images(path / name):
                problems.append(Problem(path / name, "hidden", "is a hidden folder (its name begins with a dot)"))
        elif ending in IMAGE_SUFFIXES:
            pictures.append(name)
        elif ending in UNSUPPORTED_SUFFIXES:
            problems.append(Problem(path / name, "unsupported", f"cannot be read; save it as {_FORMATS_TEXT}"))
        elif ending in SIDECAR_SUFFIXES:
            captions.append(name)
        elif name.casefold() in TABLE_NAMES:
            tables.setdefault(name.casefold(), name)
        elif os.path.isdir(path / name):
            if name.casefold() not in HIDDEN_FOLDERS:
                below.append(name)
            elif _holds_images(path / name):
                problems.append(Problem(path / name, "hidden", "is a folder of the system's, not of pictures"))
    images, masks = _masks_beside(path, pictures, problems)
    if images:
        for wanted in MASK_FOLDERS:
            for name in [name for name in below if name.casefold() == wanted]:
                below.remove(name)
                _masks_below(path, name, images, masks, problems)
    odd, own = _sidecars(images, captions)
    for name in captions:
        if name not in own:
            problems.append(
                Problem(path / name, "orphan-caption", f"belongs to no image: no image is named {stem(name)!r}")
            )
    ordered = tuple(tables[name] for name in TABLE_NAMES if name in tables)
    return Folder(path, subset, repeats, tuple(images), frozenset(own), odd, masks, ordered), below


def _plain_sidecars(image: str, captions: frozenset[str] | set[str]) -> tuple[str, ...]:
    names = (f"{stem(image)}{ending}" for ending in SIDECAR_SUFFIXES)
    return tuple(name for name in names if name in captions)


def _sidecars(images: list[str], captions: list[str]) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """The caption files of images where they are not ``<stem>.txt``, and all that belong to an image.

    By stem, exact before folded: on Linux A.png and a.png are two images, and a.txt belongs to one of them.
    """
    if not captions:
        return {}, set()
    stems = {stem(image) for image in images}
    own = {name for name in captions if stem(name) in stems}
    # Few: all others are found by their names.
    exact: dict[tuple[str, str], str] = {}
    folded: dict[tuple[str, str], str] = {}
    for name in captions:
        if name in own:
            if not name.endswith(suffix(name)):
                exact.setdefault((stem(name), suffix(name)), name)
        else:
            folded.setdefault((fold(stem(name)), suffix(name)), name)
    odd: dict[str, tuple[str, ...]] = {}
    if exact or folded:
        for image in images:
            found: list[str] = []
            for ending in SIDECAR_SUFFIXES:
                plain = f"{stem(image)}{ending}"
                name = plain if plain in own else exact.get((stem(image), ending))
                name = name or folded.get((fold(stem(image)), ending))
                found += [name] if name else []
            if tuple(found) != _plain_sidecars(image, own):
                odd[image] = tuple(found)
                own.update(found)
    return odd, own


def _masks_beside(path: Path, pictures: list[str], problems: list[Problem]) -> tuple[list[str], dict[str, str]]:
    """Which pictures are images, and the masks of those that have one beside them."""
    marked = {name: mark for name in pictures for mark in MASK_MARKS if stem(name).casefold().endswith(mark)}
    if not marked:
        return pictures, {}
    by_stem: dict[str, list[str]] = {}
    for name in pictures:
        by_stem.setdefault(fold(stem(name)), []).append(name)
    masks: dict[str, str] = {}
    not_images: set[str] = set()
    for mark in MASK_MARKS:
        for name in [name for name in marked if marked[name] == mark]:
            owners = by_stem.get(fold(stem(name)[: -len(mark)]), [])
            for owner in owners:
                masks.setdefault(owner, name)
            # A picture of a mask may be called name_mask.png; nobody calls one otherwise.
            if owners or mark != "_mask":
                not_images.add(name)
            if not owners and name in not_images:
                problems.append(_orphan_mask(path / name, stem(name)[: -len(mark)]))
    images = [name for name in pictures if name not in not_images]
    return images, {image: mask for image, mask in masks.items() if image not in not_images}


def _masks_below(path: Path, folder: str, images: list[str], masks: dict[str, str], problems: list[Problem]) -> None:
    """Adds the masks of a folder of masks."""
    try:
        names = sorted(os.listdir(path / folder))
    except OSError as error:
        problems.append(Problem(path / folder, "unreadable", f"the folder cannot be read: {error.strerror}"))
        return
    by_stem: dict[str, list[str]] = {}
    for image in images:
        by_stem.setdefault(fold(stem(image)), []).append(image)
    for name in names:
        if suffix(name) not in IMAGE_SUFFIXES or name.startswith("."):
            continue
        wanted = stem(name)
        for mark in MASK_MARKS:
            if wanted.casefold().endswith(mark) and fold(wanted) not in by_stem:
                wanted = wanted[: -len(mark)]
        owners = by_stem.get(fold(wanted), [])
        for owner in owners:
            masks.setdefault(owner, f"{folder}/{name}")
        if not owners:
            problems.append(_orphan_mask(path / folder / name, wanted))


def _orphan_mask(path: Path, wanted: str) -> Problem:
    return Problem(path, "orphan-mask", f"is a mask that belongs to no image: no image is named {wanted!r}")


def _holds_images(folder: Path) -> bool:
    """Whether a folder that is passed over holds images; looks at its first entries only."""
    looked = 0
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(suffix(name) in IMAGE_SUFFIXES and not name.startswith(".") for name in files):
            return True
        looked += len(folders) + len(files)
        if looked > _LOOK_LIMIT:
            break
    return False


def _no_images(root: Path, problems: list[Problem]) -> DatasetError:
    passed_over = [problem for problem in problems if problem.kind in PASSED_OVER]
    if passed_over:
        listed = "\n".join(f"  - {problem}" for problem in passed_over[:5])
        return DatasetError(f"{root}: no image that can be used; passed over:\n{listed}")
    cure = f"Put pictures ({_FORMATS_TEXT}) into it."
    if any(suffix(name) in (".txt", ".md", ".jsonl", ".json", ".csv", ".tsv") for name in os.listdir(root)):
        cure += " Lines of text alone want task_type: text-generation."
    return DatasetError(f"{root}: no image in the folder", cure)
