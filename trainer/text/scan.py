"""Scans text to train on: plain lines and conversations, and what is wrong with them. Files are only read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..dataset.files import METADATA_NAME
from ..dataset.items import Problem
from ..dataset.remembered import content_hash
from ..dataset.text import UTF8
from ..errors import DatasetError
from ..files import digest
from .files import FORMATS, File, Listing, list_text, named_file
from .items import Message, Sample, TextDataset
from .messages import Fault, NoAnswer, order, read
from .rows import rows, text_of

# Problems that an error lists.
_LISTED = 5


def scan(folder: str | Path, *, metadata_path: str | Path | None = None, repeats: int = 1) -> TextDataset:
    """Reads the text of a folder and of those below it.

    ``.txt`` and ``.md``: a sample a line. ``.jsonl`` and ``.json``: an object a line, or a list of them; ``.csv`` and
    ``.tsv``: a row each; their names are told in ``messages``. A line or row that cannot be used is a problem with its
    number, and is passed over.

    Args:
        folder: the files lie in it or in folders below; one named ``10_name`` is seen ten times. May be a file.
        metadata_path: a file that is read alone, in place of those of the folder.
        repeats: how often each sample is seen in an epoch; multiplied by that of its folder.

    Raises:
        DatasetError: nothing can be trained on, a file cannot be read, or an argument is wrong.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise DatasetError(f"repeats: expected a whole number of at least 1, got {repeats!r}")
    listing = _listing(folder, metadata_path)
    samples: list[Sample] = []
    problems: list[Problem] = list(listing.problems)
    first: dict[str, str] = {}
    copies: Counter[str] = Counter()
    for file in listing.files:
        for number, place, content in _of_file(file, problems):
            messages, text = (content, "") if isinstance(content, tuple) else ((), content)
            key = digest(text, [[message.role, message.content] for message in messages])
            source = f"{file.name}:{number}"
            earlier = first.setdefault(key, source)
            if earlier != source:
                copies[key] += 1
                problems.append(_at(file, "duplicate", place, f"says the same as {earlier}; both are trained"))
            name = f"{key}-{copies[key] + 1}" if copies[key] else key
            samples.append(Sample(name, source, text, messages, repeats * file.repeats))
    if not samples:
        raise _nothing_usable(listing, problems)
    return TextDataset(listing.root, tuple(samples), tuple(problems))


def fingerprint(folder: str | Path, metadata_path: str | Path | None = None) -> str:
    """Hash of the names and bytes of the files that are read; cheap when asked again.

    Returns:
        64 hex digits.

    Raises:
        DatasetError: the folder cannot be read or holds no text.
    """
    found = hashlib.sha256()
    for file in _listing(folder, metadata_path).files:
        try:
            content = content_hash(file.path)
        except OSError:
            content = "unreadable"
        found.update(os.fsencode(file.name) + b"\0" + content.encode() + b"\0")
    return found.hexdigest()


def _listing(folder: str | Path, metadata_path: str | Path | None) -> Listing:
    if metadata_path is not None:
        root = Path(os.path.abspath(Path(folder).expanduser()))
        table = Path(os.path.abspath(Path(metadata_path).expanduser()))
        # The template names the folder's own table, which need not be there.
        if table != root / METADATA_NAME or table.exists():
            return named_file(table, root)
    return list_text(folder)


def _of_file(file: File, problems: list[Problem]) -> Iterator[tuple[int, str, str | tuple[Message, ...]]]:
    """Number, place in words, and content of every row that can be used; the others become problems."""
    text, encoding = text_of(file.path)
    if encoding != UTF8:
        message = f"is not UTF-8; read as {encoding}: save it as UTF-8"
        problems.append(Problem(file.path, "other-encoding", message, file.subset))
    if not text.strip():
        problems.append(Problem(file.path, "empty", "is empty", file.subset))
        return
    for row in rows(file.path, text):
        place = f"{row.what} {row.number}"
        try:
            if row.fault:
                raise Fault(row.fault)
            content = read(row.data)
            if isinstance(content, str):
                content = content.strip()
                if not content:
                    raise Fault("its text is empty")
            elif fault := order(content):
                problems.append(_at(file, "roles", place, fault))
        except Fault as fault:
            kind = "no-answer" if isinstance(fault, NoAnswer) else "bad-row"
            problems.append(_at(file, kind, place, str(fault)))
        else:
            yield row.number, place, content


def _at(file: File, kind: str, place: str, message: str) -> Problem:
    return Problem(file.path, kind, f"{place}: {message}", file.subset)


def _nothing_usable(listing: Listing, problems: list[Problem]) -> DatasetError:
    listed = "\n".join(f"  - {problem}" for problem in problems[:_LISTED])
    more = f"\n  - and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return DatasetError(
        f"{listing.root}: no text that can be trained on:\n{listed}{more}", f"Put text ({FORMATS}) into it."
    )
