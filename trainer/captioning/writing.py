"""Where captions are written: into one table, or into a file beside each image.

What is written is written whole or not at all. The former file is kept beside, once a run: as ``metadata.csv.bak`` or
``name.txt.bak`` (``.bak2``, ... where there is one already). What somebody else changes while captions are made stays
as he left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ..dataset.files import SIDECAR_SUFFIXES, Listing
from ..errors import CaptionError
from ..files import write_bytes
from .table import Table, Texts

Stamp = tuple[int, int, int] | None
Note = Callable[[bytes | None], None]


class Target(Protocol):
    """What captions are written into.

    Attributes:
        backups: copies of the files that were replaced.
    """

    backups: list[Path]

    def changed(self, image: Path) -> bool:
        """Whether somebody else changed the captions of an image since the run began."""
        ...

    def write(self, captions: Mapping[Path, Texts], note: Note) -> None:
        """Write the captions of images, each image once in a run.

        Args:
            captions: of each image, at least one.
            note: called just before, with the table if the former one is kept beside.

        Raises:
            CaptionError: a file cannot be written.
            DatasetError: somebody has made the table into something that is none.
        """
        ...


class Rows:
    """The rows of a table, which is written anew each time: a thousand rows are a tenth of a megabyte.

    Args:
        path: the table; need not exist.
        listing: the folder of the images.
        has_kept: whether this table was kept beside already, by a run that this one goes on with.

    Raises:
        DatasetError: the file exists and is no table of captions.
    """

    def __init__(self, path: Path, listing: Listing, has_kept: Callable[[bytes], bool]) -> None:
        self.backups: list[Path] = []
        self._given, self._path, self._listing = path, path.resolve(), listing  # a link stays a link
        self._stamp = _stamp(self._path)
        self._former = self._path.read_bytes() if self._stamp else b""
        self._kept = has_kept(self._former)
        self._table = self._began = Table(path, listing)

    def changed(self, image: Path) -> bool:
        """See ``Target``."""
        return self._now().texts(image) != self._began.texts(image)

    def write(self, captions: Mapping[Path, Texts], note: Note) -> None:
        """See ``Target``."""
        table = self._now()
        table.put(captions)
        if table.replaces and not self._kept:
            self.backups.append(_keep(self._path, self._former))
            self._kept = True
        data = table.data()
        note(data if self._kept else None)
        write_file(self._path, data)
        self._stamp = _stamp(self._path)

    def _now(self) -> Table:
        """The table as it is; read again when somebody else has written it."""
        if _stamp(self._path) != self._stamp:
            self._stamp = _stamp(self._path)
            self._table = Table(self._given, self._listing)
        return self._table


class Files:
    """Caption files: the one that an image has, else a new ``.txt``.

    Args:
        sidecars: the caption files of each image, the one that counts first.
    """

    def __init__(self, sidecars: Mapping[Path, Iterable[Path]]) -> None:
        self.backups: list[Path] = []
        self._paths = {
            image: next(iter(paths), image.with_suffix(SIDECAR_SUFFIXES[0])) for image, paths in sidecars.items()
        }
        self._stamps = {path: _stamp(path) for path in self._paths.values()}
        self._done: set[Path] = set()

    def changed(self, image: Path) -> bool:
        """See ``Target``."""
        path = self._paths[image]
        return path not in self._done and _stamp(path) != self._stamps[path]

    def write(self, captions: Mapping[Path, Texts], note: Note) -> None:
        """See ``Target``."""
        note(None)
        for image, texts in captions.items():
            path = self._paths[image]
            if path in self._done:
                continue  # a.png and a.jpg share a.txt
            self._done.add(path)
            path = path.resolve()
            if path.exists() and path.stat().st_size > 0:
                self.backups.append(_keep(path, path.read_bytes()))
            write_file(path, f"{texts[0]}\n".encode())


def _stamp(path: Path) -> Stamp:
    """What tells that a file was written anew; None if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _keep(path: Path, data: bytes) -> Path:
    """Writes a former file beside the new one, unless it lies there already; its path."""
    number = 1
    while (backup := path.with_name(f"{path.name}.bak{number if number > 1 else ''}")).exists():
        if backup.is_file() and backup.read_bytes() == data:
            return backup
        number += 1
    write_file(backup, data)
    return backup


def write_file(path: Path, data: bytes) -> None:
    """``files.write_bytes`` of something of the user's.

    Raises:
        CaptionError: it cannot be written.
    """
    try:
        write_bytes(path, data)
    except OSError as error:
        raise CaptionError(
            f"{path}: cannot be written: {error.strerror}",
            "Check the folder's permissions, and close programs that have the file open.",
        ) from None
