"""Which files of a folder are text to train on, by name only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..dataset.files import (
    HIDDEN_FOLDERS,
    IMAGE_SUFFIXES,
    RUN_FILE,
    SIDECAR_SUFFIXES,
    TABLE_NAMES,
    UNSUPPORTED_SUFFIXES,
    fold,
    stem,
    suffix,
    walk,
)
from ..dataset.items import Problem
from ..errors import DatasetError

LINES, JSON, TABLES = frozenset({".txt", ".md"}), frozenset({".jsonl", ".json"}), frozenset({".csv", ".tsv"})
SUFFIXES = LINES | JSON | TABLES
FORMATS = ".jsonl, .json, .csv, .tsv, or lines in .txt or .md"
#: Files that a user may expect to be read, and are not: named instead of passed over in silence.
_OTHERS = frozenset(
    {".parquet", ".arrow", ".xlsx", ".xls", ".ods", ".docx", ".doc", ".odt", ".rtf", ".pdf", ".epub", ".html", ".htm"}
    | {".yaml", ".yml", ".xml", ".zip", ".gz", ".zst", ".7z", ".rar", ".tar"}
)
_ABOUT = frozenset({"readme", "license", "licence", "dataset_infos", "dataset_info"})
# Entries that are looked at to tell a folder of text from one of images.
_LOOK_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class File:
    """A file of text: its path, the folder below the data set's (``""`` for itself), what the folders' names repeat."""

    path: Path
    subset: str = ""
    repeats: int = 1

    @property
    def name(self) -> str:
        """What people know it by: its name, behind its subset."""
        return f"{self.subset}/{self.path.name}" if self.subset else self.path.name


@dataclass(frozen=True)
class Listing:
    """The files of a text data set, in the order in which they are read."""

    root: Path
    files: tuple[File, ...]
    problems: tuple[Problem, ...]
    images: int = 0


def list_text(folder: str | Path) -> Listing:
    """The files of text in a folder and in those below it; a file stands for itself alone.

    Raises:
        DatasetError: it does not exist, cannot be read, or holds no text.
    """
    root = Path(os.path.abspath(Path(folder).expanduser()))
    if root.is_file():
        return named_file(root, root.parent)
    if not root.exists():
        raise DatasetError(f"{root}: the folder does not exist", "Check train_data_dir.")
    listing = _walk(root)
    if not listing.files:
        raise _no_text(listing)
    return listing


def named_file(path: str | Path, root: Path) -> Listing:
    """One file, named by the user.

    Raises:
        DatasetError: it is missing, or of a kind that is not read.
    """
    path = Path(os.path.abspath(Path(path).expanduser()))
    if path.is_dir():
        raise DatasetError(f"{path}: is a folder, expected a file", f"Name a file that ends in {FORMATS}.")
    if not path.is_file():
        raise DatasetError(f"{path}: the file does not exist", "Check metadata_path, or leave it empty.")
    if suffix(path.name) in IMAGE_SUFFIXES:
        raise DatasetError(f"{path}: is an image, expected text", "For images choose task_type: image-generation.")
    if suffix(path.name) not in SUFFIXES:
        raise DatasetError(f"{path}: this kind of file is not read, expected {FORMATS}", _convert(path.name))
    return Listing(root, (File(path),), ())


def looks_like_text(folder: str | Path) -> bool:
    """Whether a folder holds text to train on rather than images; by its files' names, so that it is quick.

    One that holds both is taken for images with their captions. What cannot be read is none.
    """
    root = Path(os.path.abspath(Path(folder).expanduser()))
    if root.is_file():
        return suffix(root.name) in SUFFIXES
    found, looked = False, 0
    for _, folders, files in os.walk(root):
        if RUN_FILE in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not _is_hidden(name)]
        shown = [name for name in files if not name.startswith(".")]
        if any(suffix(name) in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES for name in shown):
            return False
        found = found or any(_is_data(name) for name in shown)
        looked += len(files)
        if looked > _LOOK_LIMIT:
            break
    return found


def _is_data(name: str) -> bool:
    return suffix(name) in SUFFIXES and stem(name).casefold() not in _ABOUT


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in HIDDEN_FOLDERS


def _walk(root: Path) -> Listing:
    files: list[File] = []
    problems: list[Problem] = []
    images = 0

    def told(problem: Problem, subset: str) -> None:
        problems.append(replace(problem, subset=subset.rpartition("/")[0]))

    def visit(path: Path, subset: str, repeats: int, names: list[str]) -> list[str]:
        nonlocal images
        if RUN_FILE in names:
            if not subset:
                raise DatasetError(f"{root}: is the folder of a run, not of data", "Check train_data_dir.")
            told(Problem(path, "run-folder", "is the folder of a run"), subset)
            return []
        below = [name for name in names if not _is_hidden(name) and os.path.isdir(path / name)]
        plain = [name for name in names if not name.startswith(".") and name not in below]
        found, pictures = _read(path, subset, repeats, plain, problems)
        files.extend(found)
        images += pictures
        return below[::-1]  # so that the first is read next

    walk(root, visit, told)
    files.sort(key=lambda file: [(part.casefold(), part) for part in (*file.subset.split("/"), file.path.name)])
    return Listing(root, tuple(files), tuple(problems), images)


def _read(path: Path, subset: str, repeats: int, names: list[str], problems: list[Problem]) -> tuple[list[File], int]:
    """The files of one folder, and how many images are in it."""
    pictures = [name for name in names if suffix(name) in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES]
    stems = {fold(stem(name)) for name in pictures}
    files: list[File] = []
    for name in names:
        ending = suffix(name)
        if pictures and ((ending in SIDECAR_SUFFIXES and fold(stem(name)) in stems) or name.casefold() in TABLE_NAMES):
            problems.append(Problem(path / name, "caption", "is of the images beside it, not text to train on", subset))
        elif ending in _OTHERS:
            problems.append(Problem(path / name, "unsupported", f"is not read. {_convert(name)}", subset))
        elif ending in SUFFIXES and not _is_data(name):
            problems.append(Problem(path / name, "not-data", "tells about the data, by its name", subset))
        elif ending in SUFFIXES:
            files.append(File(path / name, subset, repeats))
    if pictures:
        what = "1 image" if len(pictures) == 1 else f"{len(pictures)} images"
        problems.append(Problem(path, "images", f"holds {what}, which are not trained", subset.rpartition("/")[0]))
    return files, len(pictures)


def _convert(name: str) -> str:
    if suffix(name) in (".zip", ".gz", ".zst", ".7z", ".rar", ".tar"):
        return "Unpack it."
    if suffix(name) in (".xlsx", ".xls", ".ods"):
        return "Save it as CSV UTF-8."
    return f"Save it as {FORMATS}."


def _no_text(listing: Listing) -> DatasetError:
    root, text = listing.root, f"text ({FORMATS}) into it."
    if listing.images:
        what = "1 image" if listing.images == 1 else f"{listing.images} images"
        return DatasetError(
            f"{root}: holds {what} and no text, and task_type is text-generation",
            f"For images choose task_type: image-generation; else put {text}",
        )
    if listing.problems:
        listed = "\n".join(f"  - {problem}" for problem in listing.problems[:5])
        return DatasetError(f"{root}: no text that can be used; passed over:\n{listed}", f"Put {text}")
    return DatasetError(f"{root}: no text in the folder", f"Put {text}")
