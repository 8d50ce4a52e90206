"""Writes captions into a table (``metadata.csv``): rows that do not change keep every byte."""

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


def edited(path: Path, listing: Listing, captions: Mapping[Path, tuple[str, ...]]) -> tuple[bytes, bool]:
    """The table with these captions in it, as UTF-8.

    The rows of an image are changed one after the other; what it has too many is taken out, what is missing comes to
    the end. Other rows stay as they are, also those of files that are gone and those that cannot be read. Separator,
    line ends, columns and byte-order mark stay too.

    Args:
        path: the table; need not exist.
        listing: the folder of the images.
        captions: the captions of each image that gets some, not empty.

    Returns:
        The bytes of the file, and whether something that was in it is replaced.

    Raises:
        DatasetError: the file exists and is no table of captions.
    """
    table = read_csv(path) if path.exists() else _empty(path)
    every = list(table.every_row())
    newline = "\r\n" if (table.head or (every[0].raw if every else "")).endswith("\r\n") else "\n"
    rows_of: dict[Path, list[Row]] = {}
    names = Names(listing)
    for row in every:
        for image in _images(row, names, path.parent):
            rows_of.setdefault(image, []).append(row)
    new: dict[int, str] = {}
    added: list[str] = []
    replaced = table.encoding != UTF8
    for image, texts in captions.items():
        rows = rows_of.get(image, [])
        if any(row.line in new for row in rows):
            continue  # a.png and a.jpg share the rows of a
        for row, text in zip(rows, texts, strict=False):
            cells = list(row.cells)
            replaced |= tidy(cells[table.prompt_column]) not in ("", text)
            cells[table.prompt_column] = text
            new[row.line] = _line(table, cells, newline)
        for row in rows[len(texts) :]:
            replaced = True
            new[row.line] = ""
        for text in texts[len(rows) :]:
            cells = [""] * len(table.columns)
            cells[table.filename_column] = image.relative_to(listing.root).as_posix()
            cells[table.prompt_column] = text
            added.append(_line(table, cells, newline))
    lines = [table.head, *(new.get(row.line, row.raw) for row in every)]
    # The last line of a file that was edited by hand may have no end.
    if added and not next((line for line in reversed(lines) if line), "\n").endswith(("\n", "\r")):
        lines.append(newline)
    return ("".join([*lines, *added])).encode("utf-8-sig" if table.bom else "utf-8"), replaced


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


def _line(table: Csv, cells: list[str], newline: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=table.delimiter, lineterminator=newline).writerow(cells)
    return text.getvalue()
