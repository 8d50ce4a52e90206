"""Reads ``metadata.csv`` and ``metadata.jsonl``: captions in one table.

The CSV, as the guide has it::

    filename,prompt
    house 1.png,"a red house, snow"

Columns are found by their names (also ``file_name``, ``file``, ``image``, ``path``; ``caption``, ``text``), stand in
any order, and further ones are kept. Without a header the first column is the filename, the second the prompt. The
separator may be a comma, a semicolon (which spreadsheets write in many countries) or a tab; the first line tells. A
prompt with the separator in it stands in double quotes.

JSON lines are an object a line, by the same names, as Hugging Face's image folders have them; ``captions`` is a list::

    {"file_name": "10_cat/a.png", "text": "a cat on a wall"}
    {"file_name": "10_cat/b.png", "captions": ["a cat", "a tabby cat, asleep"]}

Text is UTF-8, with or without a byte-order mark, else what ``text.decode`` guesses. A row that cannot be read is a
problem with its line number; a table that cannot be read is an error.
"""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .files import IMAGE_SUFFIXES, suffix
from .text import decode

FILENAME_COLUMNS = ("filename", "file_name", "file", "image", "path")
PROMPT_COLUMNS = ("prompt", "caption", "text")
LIST_COLUMN = "captions"
HEADER = ("filename", "prompt")

#: A caption file above this size is something else.
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``fault`` says why it cannot be used; ``raw`` and ``cells`` are for writing the file anew.

    Attributes:
        line: where it begins, counted from 1.
        filename: as it is written.
        prompts: the captions, as they are written; several are alternatives.
        fault: empty for a row that can be used.
        raw: its text in the file, line end included.
        cells: all of its cells, in a CSV file.
    """

    line: int
    filename: str
    prompts: tuple[str, ...]
    fault: str = ""
    raw: str = ""
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Csv:
    """A CSV file as it stands. ``head`` is the header line with its end, ``""`` where there is none.

    ``encoding`` is a key of ``text.CODECS``.
    """

    path: Path
    text: str
    encoding: str
    bom: bool
    delimiter: str
    head: str
    columns: tuple[str, ...]

    @property
    def filename_column(self) -> int:
        """Where the filename stands."""
        return _column(self.columns, FILENAME_COLUMNS)

    @property
    def prompt_column(self) -> int:
        """Where the prompt stands."""
        return _column(self.columns, PROMPT_COLUMNS)

    def every_row(self) -> Iterator[Row]:
        """All rows, read as they are asked for, empty ones too: their ``raw`` and ``head`` together are the file.

        Raises:
            DatasetError: the quotes are broken, with the line.
        """
        taken: list[str] = []

        def lines() -> Iterator[str]:
            for line in io.StringIO(self.text[len(self.head) :], newline=""):
                taken.append(line)
                yield line

        reader = csv.reader(lines(), delimiter=self.delimiter, strict=True, skipinitialspace=True)
        filename, prompt = self.filename_column, self.prompt_column
        line = 2 if self.head else 1
        try:
            for found in reader:
                cells = tuple(cell.strip() for cell in found)
                fault = _fault(cells, len(self.columns), self.delimiter)
                if fault or not any(cells):
                    yield Row(line, "", (), fault, "".join(taken), cells)
                else:
                    yield Row(line, cells[filename], (cells[prompt],), "", "".join(taken), cells)
                line += len(taken)
                taken.clear()
        except csv.Error as error:
            raise DatasetError(f"{self.path}, line {line}: {explained(error)}", _QUOTING) from None

    def rows(self) -> Iterator[Row]:
        """``every_row`` without the empty ones."""
        return (row for row in self.every_row() if row.fault or any(row.cells))


@dataclass(frozen=True)
class JsonLines:
    """A file with an object a line."""

    path: Path
    text: str
    encoding: str

    def every_row(self) -> Iterator[Row]:
        """All lines, read as they are asked for, empty ones too: their ``raw`` together are the file."""
        for line, text in enumerate(io.StringIO(self.text), start=1):
            yield replace(_json_row(line, text), raw=text) if text.strip() else Row(line, "", (), raw=text)

    def rows(self) -> Iterator[Row]:
        """``every_row`` without the empty ones."""
        return (row for row in self.every_row() if row.raw.strip())


def read_metadata(path: Path) -> Csv | JsonLines:
    """Reads a table of captions: JSON lines if its name ends so, else CSV.

    Raises:
        DatasetError: the file is missing, no text, or a CSV file without header and without the name of an image in
            its first line.
    """
    if suffix(path.name) != ".jsonl":
        return read_csv(path)
    text, encoding, _ = _open(path)
    return JsonLines(path, text, encoding)


def read_csv(path: Path) -> Csv:
    """Reads a CSV file.

    Raises:
        DatasetError: as ``read_metadata``.
    """
    text, encoding, bom = _open(path)
    return Csv(path, text, encoding, bom, *_header(path, text))


_QUOTING = (
    "A prompt with commas stands in double quotes; a double quote inside them is written twice: "
    '"a ""big"" house, snow".'
)


def _open(path: Path) -> tuple[str, str, bool]:
    """Text, encoding, and whether it begins with UTF-8's byte-order mark."""
    if path.is_dir():
        raise DatasetError(f"{path}: is a folder, expected a CSV file", "Name the file, such as metadata.csv.")
    if not path.is_file():
        raise DatasetError(f"{path}: the metadata file does not exist", "Check metadata_path, or leave it empty.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(f"{path}: is larger than {MAX_BYTES >> 20} MiB, which is no table of captions")
        data = path.read_bytes()
        return *decode(data), data.startswith(BOM_UTF8)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DatasetError(f"{path}: {error}", "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).") from None


def _column(columns: tuple[str, ...], wanted: tuple[str, ...]) -> int:
    names = [column.casefold() for column in columns]
    return next(names.index(name) for name in wanted if name in names)


def _header(path: Path, text: str) -> tuple[str, str, tuple[str, ...]]:
    """The separator, the header line as it stands, and the names of the columns."""
    first = next(iter(io.StringIO(text, newline="")), "")
    for delimiter in ",;\t":
        try:
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            continue
        columns = tuple(cell.strip() for cell in cells)
        names = {name.casefold() for name in columns}
        if names & set(FILENAME_COLUMNS) and names & set(PROMPT_COLUMNS):
            return delimiter, first, columns
        if len(columns) > 1 and suffix(columns[0]) in IMAGE_SUFFIXES:
            return delimiter, "", HEADER
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


def explained(error: csv.Error) -> str:
    """What is wrong with a table, in words."""
    text = str(error)
    if "unexpected end of data" in text:
        return "a double quote is opened here and never closed"
    if "expected after" in text:
        return "text stands after a closing double quote"
    if "field limit" in text:
        return "a cell is longer than 131,072 characters: a double quote is not closed"
    return f"this is not CSV ({text})"


def _json_row(line: int, text: str) -> Row:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Row(line, "", (), "is not JSON")
    if not isinstance(data, dict):
        return Row(line, "", (), 'expected an object, such as {"file_name": "a.png", "text": "a house"}')
    fields: dict[str, Any] = {name.casefold(): value for name, value in data.items()}
    filename = next((fields[name] for name in FILENAME_COLUMNS if name in fields), None)
    if not isinstance(filename, str):
        return Row(line, "", (), f"expected the name of a file in {' or '.join(FILENAME_COLUMNS[:2])}")
    value = next((fields[name] for name in (LIST_COLUMN, *PROMPT_COLUMNS) if fields.get(name) is not None), "")
    prompts = value if isinstance(value, list) else [value]
    if not all(isinstance(prompt, str) for prompt in prompts):
        return Row(line, "", (), f"expected text as caption of {filename!r}, got {json.dumps(value)[:60]}")
    if any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt):
        return Row(line, "", (), f"the caption of {filename!r} holds half a character (an escape \\ud800 to \\udfff)")
    return Row(line, filename.strip(), tuple(prompts))
