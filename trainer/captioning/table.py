"""Writes captions into a table (``metadata.csv``): rows that do not change keep every byte."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ..dataset.captions import match_rows, tidy
from ..dataset.files import Listing
from ..dataset.metadata import HEADER, Metadata, Row, read_metadata


def edited(path: Path, listing: Listing, captions: Mapping[Path, str]) -> tuple[bytes, bool]:
    """The table with these captions in it.

    The first row of an image is the one that counts, and is changed; an image without a row gets one at the end.
    Other rows stay as they are, also those of files that are gone and those that cannot be read. Separator, line
    ends, columns and byte-order mark stay too.

    Args:
        path: the table; need not exist.
        listing: the folder of the images.
        captions: the caption of each image that gets one, not empty.

    Returns:
        The bytes of the file, and whether a caption that was in it is replaced.

    Raises:
        DatasetError: the file exists and is no table of captions.
    """
    table = read_metadata(path) if path.exists() else _empty(path)
    newline = "\r\n" if table.head.endswith("\r\n") else "\n"
    row_of: dict[Path, Row] = {}
    for row, images in match_rows(table, listing):
        for image in images:
            row_of.setdefault(image, row)
    new: dict[int, str] = {}
    added: list[str] = []
    replaced = False
    for image, caption in captions.items():
        row = row_of.get(image)
        if row is None:
            cells = [""] * len(table.columns)
            cells[table.filename_column] = image.name
            cells[table.prompt_column] = caption
            added.append(_line(table, cells, newline))
        elif row.line not in new:
            cells = list(row.cells)
            replaced |= tidy(cells[table.prompt_column]) not in ("", caption)
            cells[table.prompt_column] = caption
            new[row.line] = _line(table, cells, newline)
    lines = [table.head, *(new.get(row.line, row.raw) for row in table.rows)]
    # The last line of a file that was edited by hand may have no end.
    if added and not lines[-1].endswith(("\n", "\r")):
        lines.append(newline)
    return ("".join([*lines, *added])).encode("utf-8-sig" if table.bom else "utf-8"), replaced


def _empty(path: Path) -> Metadata:
    return Metadata(path, ",", ",".join(HEADER) + "\n", HEADER, 0, 1, (), bom=False)


def _line(table: Metadata, cells: list[str], newline: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=table.delimiter, lineterminator=newline).writerow(cells)
    return text.getvalue()
