"""Which captions belong to which image.

An image's captions are the first of these that are not empty:

1. its rows in the table named by ``metadata_path``;
2. its rows in ``metadata.csv``, then ``metadata.jsonl``, of its own folder, then of the folders above it, up to the
   dataset's;
3. ``<stem>.txt``;
4. ``<stem>.caption``.

That is the source ``auto``; the others of ``SOURCES`` take a part of it, or something else.

A named table that is none of the dataset's own stands for all of them. So a table wins over single files, and it means
the same whether it is named or found: what "Auto Caption" wrote, or was edited by hand as the guide says, is what
trains. Where a source that loses says something else, that is reported (``caption-conflict``), never settled in
silence. A table that names only some images leaves the others to their single files.

**Alternatives.** An image may have several captions; each showing of it takes one. They are the several rows of an
image in one table, or ``captions`` in JSON lines. A ``.txt`` file is *one* caption, whatever its line breaks: captions
are written over several lines more often than as a list (kohya reads the first line only, OneTrainer takes each as an
alternative; both would tear a paragraph apart). Line breaks and runs of blanks become one blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError
from .files import TABLE_NAMES, Folder, Listing, stem
from .items import Problem
from .metadata import Csv, JsonLines, Row, read_metadata
from .names import AmbiguousName, Found, Names
from .text import UTF8, decode
from .words import words_of

#: Where captions come from.
SOURCES = {
    "auto": "the table (metadata.csv or metadata.jsonl); for images that it lacks, a .txt or .caption file beside them",
    "table": "the table alone",
    "files": "a .txt or .caption file beside each image alone",
    "names": "the words of the file names: red_house-01.png is 'red house'",
    "none": "nowhere: the trigger word alone",
}
#: A caption file above this size is not a caption.
MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Caption:
    """The captions of an image, alternatives of each other, and the file that they were read from."""

    texts: tuple[str, ...]
    source: Path


def contains_word(text: str, word: str) -> bool:
    """Whether ``word`` (one or more words) stands in ``text`` as a word, in whatever case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def with_trigger(caption: str, trigger_word: str) -> str:
    """The caption with the trigger word first (``trigger, caption``), unless it holds it already, as a word."""
    trigger = tidy(trigger_word)
    if not trigger or contains_word(caption, trigger):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def tidy(text: str) -> str:
    """One line, single blanks."""
    return " ".join(text.split())


class Captions:
    """The captions of a listing, without the trigger word. Tables are read at once, other files when asked for.

    Args:
        listing: the folders.
        metadata_path: a table that wins over those of the dataset.
        tables: whether the dataset's own tables are read.
        source: a key of ``SOURCES``.

    Attributes:
        problems: what is wrong with the sources that were read so far.

    Raises:
        DatasetError: a table cannot be read; a table alone is to be used, and there is none, or it names no image; or
            a table is named that is not to be used.
    """

    def __init__(
        self, listing: Listing, metadata_path: Path | None = None, *, tables: bool = True, source: str = "auto"
    ) -> None:
        if source not in SOURCES:
            raise DatasetError(f"caption source: expected one of {', '.join(SOURCES)}, got {source!r}")
        self.problems: list[Problem] = []
        self._source = source
        if source not in ("auto", "table"):
            tables = False
            if metadata_path is not None:
                raise DatasetError(
                    f"caption source: it is {source}, but a table is named: {metadata_path}", "Leave one of them out."
                )
        own = {folder.path / name: folder for folder in listing.folders for name in folder.tables}
        if metadata_path is not None and metadata_path not in own:
            tables = False
        names = Names(listing)
        # Captions by subset, then by image. Tables of each folder, best first; the named one is everybody's.
        self._named = None if metadata_path is None else self._load(metadata_path, names)
        self._tables: dict[str, list[_Table]] = {}
        for path, folder in own.items() if tables else ():
            table = self._named if self._named and path == metadata_path else self._load(path, names)
            self._tables.setdefault(folder.subset, []).append(table)
        if source == "table":
            self._check_tables(listing.root)

    def of(self, folder: Folder, image: str) -> Caption | None:
        """The captions of an image; none, where no source has one. Reports sources that differ, and broken ones."""
        if self._source == "names":
            words = words_of(stem(image))
            return Caption((words,), folder.path / image) if words else None
        sources = list(self._sources(folder, image))
        for other in sources[1:]:
            if not set(other.texts) <= set(sources[0].texts):
                used, name = sources[0].source.name, other.source.name
                if used == name:
                    name = f"{other.source.parent.name}/{name}"
                message = f"{name} and {used} differ; {used} is used"
                self.problems.append(Problem(folder.path / image, "caption-conflict", message))
        return sources[0] if sources else None

    def _sources(self, folder: Folder, image: str) -> Iterator[Caption]:
        tables = [self._named] if self._named else []
        above = folder.subset
        while True:
            tables += [table for table in self._tables.get(above, ()) if table is not self._named]
            if not above:
                break
            above = above.rpartition("/")[0]
        for table in tables:
            if texts := table.captions.get(folder.subset, {}).get(image):
                yield Caption(texts, table.path)
        for name in folder.sidecars(image) if self._source in ("auto", "files") else ():
            if text := self._read(folder.path / name):
                yield Caption((text,), folder.path / name)

    def _check_tables(self, root: Path) -> None:
        tables = [table for those in self._tables.values() for table in those]
        tables += [self._named] if self._named else []
        if not tables:
            raise DatasetError(
                f"caption source: it is table, but {root} has no {' or '.join(TABLE_NAMES)}",
                "Put one there, or choose another source.",
            )
        if not any(table.captions for table in tables):
            raise DatasetError(
                f"caption source: it is table, but no row of {tables[0].path} names an image of {root}",
                "Its columns are filename,prompt; check the names in it.",
            )

    def _load(self, path: Path, names: Names) -> _Table:
        metadata = read_metadata(path)
        if metadata.encoding != UTF8:
            self.problems.append(_other_encoding(path, metadata.encoding))
        table: dict[str, dict[str, tuple[str, ...]]] = {}
        for row, found in self._matched(metadata, names):
            texts = tuple(text for prompt in row.prompts if (text := tidy(prompt)))
            for folder, image in found:
                captions = table.setdefault(folder.subset, {})
                known = captions.get(image, ())
                captions[image] = known + tuple(text for text in dict.fromkeys(texts) if text not in known)
                if any(text in known for text in texts):
                    message = f"line {row.line}: {image} has a row with this caption already"
                    self.problems.append(Problem(path, "duplicate-row", message))
        return _Table(path, table)

    def _matched(self, metadata: Csv | JsonLines, names: Names) -> Iterator[tuple[Row, list[Found]]]:
        """Rows and the images that they name; those that name none are reported."""
        for row in metadata.rows():
            if row.fault:
                self.problems.append(Problem(metadata.path, "bad-row", f"line {row.line}: {row.fault}"))
                continue
            what = f"no image is named {row.filename!r}" if row.filename else "the filename is empty"
            try:
                found = names.find(row.filename, metadata.path.parent)
            except AmbiguousName as error:
                found, what = [], str(error)
            if found:
                yield row, found
            else:
                self.problems.append(Problem(metadata.path, "unknown-file", f"line {row.line}: {what}"))

    def _read(self, path: Path) -> str:
        try:
            if not path.is_file():
                self._bad(path, "is not a file (a folder, or a link to nothing)")
                return ""
            if path.stat().st_size > MAX_SIDECAR_BYTES:
                self._bad(path, "is larger than 1 MiB, which is no caption")
                return ""
            text, encoding = decode(path.read_bytes())
        except OSError as error:
            self._bad(path, f"cannot be read: {error.strerror}")
            return ""
        except ValueError as error:
            self._bad(path, f"{error}; save it as UTF-8")
            return ""
        if encoding != UTF8:
            self.problems.append(_other_encoding(path, encoding))
        return tidy(text)

    def _bad(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, "bad-caption", message))


@dataclass(frozen=True)
class _Table:
    path: Path
    captions: dict[str, dict[str, tuple[str, ...]]]


def _other_encoding(path: Path, encoding: str) -> Problem:
    return Problem(path, "other-encoding", f"is not UTF-8; read as {encoding}: save it as UTF-8")
