"""The rows of a file of text: its lines, its JSON, or its table, each with where it stands.

Text is UTF-8, with or without a byte-order mark, else what ``dataset.text.decode`` guesses. A row that cannot be read
carries its fault; a file that cannot be read at all is an error.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dataset.files import suffix
from ..dataset.metadata import explained
from ..dataset.text import decode
from ..errors import DatasetError
from .files import JSON, LINES
from .messages import ANSWERS, IMAGES, NAMES

#: A file above this size is read by no one in one go.
MAX_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands: a text, or an object of JSON, or a table's cells by their columns.

    Attributes:
        number: its line, counted from 1; in a list of JSON the number of the item.
        what: ``line`` or ``item``.
        data: for ``messages.read``.
        fault: why it cannot be read; ``""`` where it can.
    """

    number: int
    what: str
    data: Any
    fault: str = ""


def text_of(path: Path) -> tuple[str, str]:
    """Text, and the name of its encoding (a key of ``dataset.text.CODECS``).

    Raises:
        DatasetError: it cannot be read, or is no text.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(f"{path}: is larger than {MAX_BYTES >> 30} GiB", "Part it into several files.")
        return decode(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DatasetError(f"{path}: {error}", "Save it as UTF-8.") from None


def rows(path: Path, text: str) -> Iterator[Row]:
    """The rows of a file, of which ``text`` is what ``text_of`` gave.

    Raises:
        DatasetError: it is not what its name says; with the line.
    """
    ending = suffix(path.name)
    if ending in LINES:
        for number, line in enumerate(io.StringIO(text, newline=None), start=1):
            if line.strip():
                yield Row(number, "line", line.strip())
    elif ending in JSON:
        yield from _json(path, text)
    else:
        yield from _table(path, text)


def _json(path: Path, text: str) -> Iterator[Row]:
    """A list of objects, one object over several lines, or an object a line, whatever the file is called."""
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {error.lineno}: is not JSON: {error.msg}", _MEND) from None
        except (ValueError, RecursionError):
            raise DatasetError(f"{path}: is not JSON that can be read", _MEND) from None
        for number, item in enumerate(items, start=1):
            yield Row(number, "item", item)
        return
    if text.lstrip().startswith("{") and (one := _object(text)) is not None:
        listed = next((value for value in one.values() if _is_list_of_objects(value)), None)
        # {"data": [...]} is a list; {"messages": [...]} is one conversation.
        if listed is None or NAMES & {str(name).casefold() for name in one}:
            yield Row(1, "line", one)
        else:
            yield from (Row(number, "item", item) for number, item in enumerate(listed, start=1))
        return
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        try:
            yield Row(number, "line", json.loads(line.rstrip()))
        except json.JSONDecodeError as error:
            yield Row(number, "line", None, f"is not JSON: {error.msg} (column {error.colno})")
        except (ValueError, RecursionError):
            yield Row(number, "line", None, "is not JSON that can be read")


_MEND = "Mend it there, or write an object a line (.jsonl)."


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _table(path: Path, text: str) -> Iterator[Row]:
    first = next(iter(io.StringIO(text, newline="")), "")
    delimiter, columns = _header(path, first)
    taken = 1
    line = 1

    def lines() -> Iterator[str]:
        nonlocal taken
        for found in io.StringIO(text[len(first) :], newline=""):
            taken += 1
            yield found

    reader = csv.reader(lines(), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            line, number = taken, line + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
                yield Row(number, "line", None, f"expected {len(columns)} columns, got {len(cells)}: {_QUOTES}")
            else:
                yield Row(number, "line", dict(zip(columns, cells, strict=False)))
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line + 1}: {explained(error)}", _QUOTING) from None


_QUOTES = "a text with separators in it stands in double quotes"
_QUOTING = 'A double quote inside of a quoted text is written twice: "a ""big"" house".'


def _header(path: Path, first: str) -> tuple[str, tuple[str, ...]]:
    """The separator and the names of the columns."""
    for delimiter in ",;\t":
        try:
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            continue
        columns = tuple(cell.strip().casefold() for cell in cells)
        known = set(columns)
        if known & IMAGES and not known & set(ANSWERS) and len(columns) > 1:
            raise DatasetError(
                f"{path}, line 1: is a table of captions of images (column {next(c for c in columns if c in IMAGES)})",
                "For images choose task_type: image-generation; for text name the columns prompt,completion.",
            )
        # One column alone has no separator.
        if known & NAMES and (len(columns) > 1 or not any(other in first for other in ",;\t")):
            return delimiter, columns
    got = f"got {first.strip()[:80]!r}" if first.strip() else "the file is empty"
    raise DatasetError(
        f"{path}, line 1: expected a header such as prompt,completion or text, {got}",
        "Put the names of the columns into the first line.",
    )
