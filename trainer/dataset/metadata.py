"""Reads ``metadata.csv``: the captions of a folder in one table, as the guide has it.

::

    filename,prompt
    house 1.png,"a red house, snow"

UTF-8, with or without a byte-order mark. Columns are found by their names (also ``file_name``, ``file``,
``image``, ``path``; ``caption``, ``text``), stand in any order, and further ones are kept. The separator may
be a comma, a semicolon (which spreadsheets write in many countries) or a tab; the header tells. A prompt with
the separator in it stands in double quotes. A row that cannot be read is a problem with its line number; a
table that cannot be read is an error, never a guess.
"""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError

FILENAME_COLUMNS = ("filename", "file_name", "file", "image", "path")
PROMPT_COLUMNS = ("prompt", "caption", "text")
HEADER = ("filename", "prompt")

#: A caption file above this size is something else.
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``raw`` is its text in the file, line end included; ``fault`` says why it cannot be used."""

    line: int
    raw: str
    cells: tuple[str, ...]
    fault: str = ""


@dataclass(frozen=True)
class Metadata:
    """A table as it stands in its file. ``head`` is everything up to the end of the header line."""

    path: Path
    delimiter: str
    head: str
    columns: tuple[str, ...]
    filename_column: int
    prompt_column: int
    rows: tuple[Row, ...]
    bom: bool


def decode(data: bytes) -> str:
    """Text of a caption file, without its byte-order mark.

    Raises:
        ValueError: it is not UTF-8; says what it seems to be.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text, expected UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start + 1})") from None
    if "\0" in text:
        raise ValueError("is not text (it has zero bytes)")
    return text


def read_metadata(path: Path) -> Metadata:
    """Reads a table of captions.

    Raises:
        DatasetError: the file is missing, not UTF-8, without the header, or its quotes are broken (with the
            line).
    """
    data = _read(path)
    try:
        text = decode(data)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}", "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).") from None
    header, delimiter, columns = _header(path, text)
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text[len(header) :], newline=""):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[Row] = []
    line = 2
    try:
        for cells in reader:
            cells = tuple(cell.strip() for cell in cells)
            rows.append(Row(line, "".join(taken), cells, _fault(cells, len(columns), delimiter)))
            line += len(taken)
            taken.clear()
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: {_explain(error)}", _QUOTING) from None
    names = [column.casefold() for column in columns]
    filename_column = next(names.index(name) for name in FILENAME_COLUMNS if name in names)
    prompt_column = next(names.index(name) for name in PROMPT_COLUMNS if name in names)
    return Metadata(
        path, delimiter, header, columns, filename_column, prompt_column, tuple(rows), data.startswith(BOM_UTF8)
    )


_QUOTING = (
    "A prompt with commas stands in double quotes; a double quote inside them is written twice: "
    '"a ""big"" house, snow".'
)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise DatasetError(f"{path}: is a folder, expected a CSV file", "Name the file, such as metadata.csv.")
    if not path.is_file():
        raise DatasetError(f"{path}: the metadata file does not exist", "Check metadata_path, or leave it empty.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(f"{path}: is larger than {MAX_BYTES >> 20} MiB, which is no table of captions")
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None


def _header(path: Path, text: str) -> tuple[str, str, tuple[str, ...]]:
    """The header line as it stands, the separator, and the names of the columns."""
    first = next(iter(io.StringIO(text, newline="")), "")
    for delimiter in ",;\t":
        try:
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            continue
        columns = tuple(cell.strip() for cell in cells)
        names = {name.casefold() for name in columns}
        if names & set(FILENAME_COLUMNS) and names & set(PROMPT_COLUMNS):
            return first, delimiter, columns
    shown = first.strip()[:80]
    got = f"got {shown!r}" if text.strip() else "the file is empty"
    raise DatasetError(
        f"{path}, line 1: expected the header filename,prompt, {got}",
        "Put the line filename,prompt at the top; if the file is something else, give it another name.",
    )


def _fault(cells: tuple[str, ...], expected: int, delimiter: str) -> str:
    # An empty line is no row; spreadsheets write separators behind the last column.
    if not any(cells) or (len(cells) >= expected and not any(cells[expected:])):
        return ""
    columns = f"expected {expected} columns, got {len(cells)}"
    if len(cells) < expected:
        return columns
    name = {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]
    return f"{columns}: a prompt with a {name} in it stands in double quotes"


def _explain(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a double quote is opened here and never closed"
    if "expected after" in text:
        return "text stands after a closing double quote"
    if "field limit" in text:
        return "a cell is longer than 131,072 characters: a double quote is not closed"
    return f"this is not CSV ({text})"
