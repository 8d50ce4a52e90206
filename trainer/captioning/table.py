"""A table of captions (``metadata.csv``) that captions are written into: rows that do not change keep every byte."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ..dataset.captions import tidy
from ..dataset.files import Listing
from ..dataset.metadata import HEADER, Csv, Row, read_csv
from ..dataset.names import AmbiguousName, Names
from ..dataset.text import UTF8

Texts = tuple[str, ...]


class Table:
    """A table in memory, read when it is made.

    The rows of an image are changed one after the other; what it has too many is taken out, what is missing comes to
    the end. Other rows stay as they are, also those of files that are gone and those that cannot be read. Separator,
    line ends, columns and byte-order mark stay too.

    Args:
        path: the table; need not exist.
        listing: the folder of the images.

    Attributes:
        replaces: whether something of the file is replaced by what was put in.

    Raises:
        DatasetError: the file exists and is no table of captions.
    """

    def __init__(self, path: Path, listing: Listing) -> None:
        self._csv = read_csv(path) if path.exists() else _empty(path)
        self._root = listing.root
        rows = list(self._csv.every_row())
        first = self._csv.head or (rows[0].raw if rows else "")
        self._newline = "\r\n" if first.endswith("\r\n") else "\n"
        self._lines = [row.raw for row in rows]
        self._added: list[str] = []
        self._rows: dict[Path, list[tuple[int, Row]]] = {}  # of an image, with their places among the lines
        self._taken: set[int] = set()  # lines that belong to an image that was put in
        names = Names(listing)
        for index, row in enumerate(rows):
            for image in _images(row, names, path.parent):
                self._rows.setdefault(image, []).append((index, row))
        self.replaces = self._csv.encoding != UTF8

    def texts(self, image: Path) -> Texts:
        """The captions of an image in the file."""
        return tuple(tidy(row.cells[self._csv.prompt_column]) for _, row in self._rows.get(image, ()))

    def put(self, captions: Mapping[Path, Texts]) -> None:
        """Put captions in the place of an image's own; each image once, and none empty."""
        for image, texts in captions.items():
            rows = self._rows.get(image, [])
            if any(index in self._taken for index, _ in rows):
                continue  # a.png and a.jpg share the rows of a
            self._taken.update(index for index, _ in rows)
            for (index, row), text in zip(rows, texts, strict=False):
                cells = list(row.cells)
                self.replaces |= tidy(cells[self._csv.prompt_column]) not in ("", text)
                cells[self._csv.prompt_column] = text
                self._lines[index] = self._line(cells)
            for index, _ in rows[len(texts) :]:
                self.replaces = True
                self._lines[index] = ""
            for text in texts[len(rows) :]:
                self._add(image, text)

    def data(self) -> bytes:
        """The file, as UTF-8."""
        lines = [self._csv.head, *self._lines]
        # The last line of a file that was edited by hand may have no end.
        if self._added and not next((line for line in reversed(lines) if line), "\n").endswith(("\n", "\r")):
            lines.append(self._newline)
        text = "".join([*lines, *self._added])
        return text.encode("utf-8-sig" if self._csv.bom else "utf-8")

    def _add(self, image: Path, text: str) -> None:
        cells = [""] * len(self._csv.columns)
        cells[self._csv.filename_column] = image.relative_to(self._root).as_posix()
        cells[self._csv.prompt_column] = text
        self._added.append(self._line(cells))

    def _line(self, cells: list[str]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self._csv.delimiter, lineterminator=self._newline).writerow(cells)
        return text.getvalue()


def _images(row: Row, names: Names, base: Path) -> list[Path]:
    """The images that a row names, if it is one that counts."""
    if row.fault or not any(row.cells):
        return []
    try:
        return [folder.path / name for folder, name in names.find(row.filename, base)]
    except AmbiguousName:
        return []


def _empty(path: Path) -> Csv:
    head = ",".join(HEADER) + "\n"
    return Csv(path, head, UTF8, False, ",", head, HEADER)
