"""A table of captions that captions are written into: what does not change keeps every byte.

``Table`` is a ``metadata.csv``, ``JsonTable`` a ``metadata.jsonl``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..dataset.captions import tidy
from ..dataset.files import Listing, suffix
from ..dataset.metadata import HEADER, LIST_COLUMN, PROMPT_COLUMNS, Csv, JsonLines, Row, read_csv, read_metadata
from ..dataset.names import AmbiguousName, Names
from ..dataset.text import UTF8

Texts = tuple[str, ...]


class _Lines(ABC):
    """The rows of a table, as text, and the images that they belong to.

    The rows of an image are changed one after the other; what it has too many is taken out, what is missing comes to
    the end. Other rows stay as they are, also those of files that are gone and those that cannot be read.
    """

    def __init__(self, rows: Sequence[Row], first: str, path: Path, listing: Listing) -> None:
        self._root = listing.root
        self._newline = "\r\n" if first.endswith("\r\n") else "\n"
        self._lines = [row.raw for row in rows]
        self._added: list[str] = []
        self._rows: dict[Path, list[tuple[int, Row]]] = {}  # of an image, with their places among the lines
        self._taken: set[int] = set()  # lines that belong to an image that was put in
        self.replaces = False
        names = Names(listing)
        for index, row in enumerate(rows):
            for image in _images(row, names, path.parent):
                self._rows.setdefault(image, []).append((index, row))

    def texts(self, image: Path) -> Texts:
        """The captions of an image in the file."""
        return tuple(tidy(text) for _, row in self._rows.get(image, ()) for text in row.prompts)

    def has(self, image: Path) -> bool:
        """Whether an image has a row, were it without a caption."""
        return image in self._rows

    def put(self, captions: Mapping[Path, Texts]) -> None:
        """Put captions in the place of an image's own; each image once, and none empty."""
        for image, texts in captions.items():
            rows, left = self._rows.get(image, []), list(texts)
            if any(index in self._taken for index, _ in rows):
                continue  # a.png and a.jpg share the rows of a
            self._taken.update(index for index, _ in rows)
            for place, (index, row) in enumerate(rows, 1):
                now = self._share(row, left, place == len(rows))
                del left[: len(now)]
                former = tuple(map(tidy, row.prompts))
                if now and now != former:
                    self.replaces |= any(text and text not in now for text in former)
                    self._lines[index] = self._changed(row, now)
                elif not now:
                    self.replaces = True
                    self._lines[index] = ""
            self._added += [self._new(image.relative_to(self._root).as_posix(), text) for text in left]

    def _share(self, row: Row, texts: Sequence[str], last: bool) -> Texts:
        """Those of an image's captions that a row of it takes."""
        return tuple(texts[:1])

    @abstractmethod
    def _changed(self, row: Row, texts: Texts) -> str:
        """The line of a row with other captions."""

    @abstractmethod
    def _new(self, name: str, text: str) -> str:
        """The line of an image that has none yet."""

    def _joined(self, head: str) -> str:
        lines = [head, *self._lines]
        # The last line of a file that was edited by hand may have no end.
        if self._added and not next((line for line in reversed(lines) if line), "\n").endswith(("\n", "\r")):
            lines.append(self._newline)
        return "".join([*lines, *self._added])


class Table(_Lines):
    """A CSV file in memory, read when it is made. Separator, line ends, columns and byte-order mark stay.

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
        rows = list(self._csv.every_row())
        super().__init__(rows, self._csv.head or (rows[0].raw if rows else ""), path, listing)
        self.replaces = self._csv.encoding != UTF8

    def text(self) -> str:
        """The file."""
        return self._joined(self._csv.head)

    def data(self) -> bytes:
        """The file, as UTF-8."""
        return self.text().encode("utf-8-sig" if self._csv.bom else "utf-8")

    def _changed(self, row: Row, texts: Texts) -> str:
        place, delimiter = self._csv.prompt_column, self._csv.delimiter
        cells = list(row.cells)
        cells[place] = texts[0]
        begin, end = _span(row.raw, place, delimiter)
        former = row.raw[begin:end]
        ahead = former[: len(former) - len(former.lstrip())]
        behind = former[len(former.rstrip()) :] if former.strip() else ""
        new = texts[0]
        if former.lstrip().startswith('"') or re.search(rf'["\r\n{delimiter}]', new):
            new, behind = '"{}"'.format(new.replace('"', '""')), ""
        line = f"{row.raw[:begin]}{ahead}{new}{behind}{row.raw[end:]}"
        # The other cells stay as they are written, if the row is then what it is to be.
        lines = csv.reader(io.StringIO(line, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        try:
            found = [[cell.strip() for cell in one] for one in lines]
        except csv.Error:
            found = []
        return line if found == [cells] else self._line(cells)

    def _new(self, name: str, text: str) -> str:
        cells = [""] * len(self._csv.columns)
        cells[self._csv.filename_column] = name
        cells[self._csv.prompt_column] = text
        return self._line(cells)

    def _line(self, cells: Sequence[str]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self._csv.delimiter, lineterminator=self._newline).writerow(cells)
        return text.getvalue()


class JsonTable(_Lines):
    """A file with an object a line, in memory; as ``Table``. Of an object only the caption changes."""

    def __init__(self, path: Path, listing: Listing) -> None:
        table = read_metadata(path)
        assert isinstance(table, JsonLines)
        rows = list(table.every_row())
        super().__init__(rows, rows[0].raw if rows else "", path, listing)

    def text(self) -> str:
        """The file."""
        return self._joined("")

    def _share(self, row: Row, texts: Sequence[str], last: bool) -> Texts:
        return tuple(texts if last else texts[: max(1, len(row.prompts))])

    def _changed(self, row: Row, texts: Texts) -> str:
        members = _members(row.raw)
        names = {name.casefold(): name for name in members}
        # The one that is read: the first of these that says something, else any of them.
        wanted = [names[name] for name in (LIST_COLUMN, *PROMPT_COLUMNS) if name in names]
        if not wanted:
            at = row.raw.rindex("}")
            ahead = row.raw[:at].rstrip()
            return f"{ahead}{'' if ahead.endswith('{') else ', '}{_json('text')}: {_json(texts[0])}{row.raw[at:]}"
        data = json.loads(row.raw)
        name = next((name for name in wanted if data[name] is not None), wanted[0])
        begin, end = members[name]
        value = texts[0] if len(texts) == 1 and not isinstance(data[name], list) else list(texts)
        former = row.raw[begin:end]
        return f"{row.raw[:begin]}{_json(value, escaped=former.isascii() and chr(92) + 'u' in former)}{row.raw[end:]}"

    def _new(self, name: str, text: str) -> str:
        return f"{_json({'file_name': name, 'text': text})}{self._newline}"


def read_table(path: Path, listing: Listing) -> Table | JsonTable:
    """A table by its name.

    Raises:
        DatasetError: the file exists and is no table of captions.
    """
    return JsonTable(path, listing) if suffix(path.name) == ".jsonl" else Table(path, listing)


def _span(raw: str, index: int, delimiter: str) -> tuple[int, int]:
    """Where a cell stands in a row of CSV, with its quotes."""
    begin = at = 0
    for number in range(index + 1):
        begin = at
        at += len(raw[at:]) - len(raw[at:].lstrip(" "))
        if raw[at : at + 1] == '"':
            closing = re.compile(r'"(?:[^"]|"")*"').match(raw, at)
            at = closing.end() if closing else len(raw)
        while at < len(raw) and raw[at] not in (delimiter, "\r", "\n"):
            at += 1
        if number < index:
            at += 1
    return begin, at


def _members(text: str) -> dict[str, tuple[int, int]]:
    """Where the values of an object stand in its JSON; of a name that comes twice, the last."""
    decoder = json.JSONDecoder()
    found: dict[str, tuple[int, int]] = {}
    at = _past(text, text.index("{") + 1, " \t\r\n")
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = _past(text, at, " \t\r\n:")
        _, at = decoder.raw_decode(text, begin)
        found[name] = begin, at
        at = _past(text, at, " \t\r\n,")
    return found


def _past(text: str, at: int, characters: str) -> int:
    while text[at] in characters:
        at += 1
    return at


def _json(value: object, *, escaped: bool = False) -> str:
    return json.dumps(value, ensure_ascii=escaped)


def _images(row: Row, names: Names, base: Path) -> list[Path]:
    """The images that a row names, if it is one that counts."""
    if row.fault or not row.filename:
        return []
    try:
        return [folder.path / name for folder, name in names.find(row.filename, base)]
    except AmbiguousName:
        return []


def _empty(path: Path) -> Csv:
    head = ",".join(HEADER) + "\n"
    return Csv(path, head, UTF8, False, ",", head, HEADER)
