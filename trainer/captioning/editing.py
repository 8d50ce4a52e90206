"""Captions changed by hand: one, or many at once, each in the file that it comes from, and undone again.

A caption is written where it was read: its row of a table, or its caption file; encoding, line ends, other rows and
columns keep every byte. A new one goes where the others are: into the table of its folder or of one above it, else into
a ``.txt`` file beside the image. Nothing is written over that somebody else has changed since it was shown.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..dataset.captions import MAX_SIDECAR_BYTES, Caption, Captions, tidy
from ..dataset.files import SIDECAR_SUFFIXES, TABLE_NAMES, Folder, list_folder, stem
from ..dataset.text import decode, encode
from ..errors import CaptionError
from . import rules
from .table import Table, Texts, read_table
from .writing import write_file

EDITABLE = ("auto", "table", "files")
"""Sources of captions that are texts of somebody's, of ``dataset.SOURCES``."""
_AGAIN = "Look at the pictures anew; nothing was written."
_MOST_STEPS, _MOST_BYTES = 100, 64 << 20


@dataclass(frozen=True)
class Edit:
    """A caption as it was shown, and as it is to be; alternatives each.

    ``how`` makes the one of the other: a file of several lines then keeps its line breaks, where it can.
    """

    before: Texts
    after: Texts
    how: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Change:
    """A file as it was and as it is to be, in bytes; None: it is not there."""

    path: Path
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Replacement:
    """Text that is put in the place of another in captions.

    Args:
        find: what is looked for; not empty.
        put: what comes in its place; nothing takes it out, with the comma that it leaves.
        whole: only whole words: ``man`` is no part of ``woman``.
        case: only in the same case.
    """

    find: str
    put: str = ""
    whole: bool = False
    case: bool = False

    def __call__(self, text: str) -> str:
        """The text with every place changed."""
        found = self.raw(text)
        if found == text:
            return text
        return tidy(found) if self.put.strip() else rules.tidy(found)

    def raw(self, text: str) -> str:
        """The same, and nothing else of it tidied."""
        return self._pattern().sub(lambda _: self.put, text)

    def places(self, text: str) -> int:
        """In how many places a text changes."""
        return len(self._pattern().findall(text)) if self(text) != text else 0

    def _pattern(self) -> re.Pattern[str]:
        if not self.find:
            raise CaptionError("find: it is empty", "Type what is to be replaced.")
        pattern = re.escape(self.find)
        if self.whole:
            before = r"(?<!\w)" if rules.is_letter(self.find[0]) else ""
            pattern = before + pattern + (r"(?!\w)" if rules.is_letter(self.find[-1]) else "")
        return re.compile(pattern, 0 if self.case else re.IGNORECASE)


class Shelf:
    """The captions of a folder as they stand on disk now, by the names of their images.

    Args:
        folder: of the images.
        source: where captions come from, a key of ``dataset.SOURCES``.

    Raises:
        DatasetError: the folder or a table of it cannot be read.
    """

    def __init__(self, folder: Path, source: str = "auto") -> None:
        self._listing = list_folder(folder)
        self._source = source
        self._captions = Captions(self._listing, source=source)
        self._places = {_name(place, image): (place, image) for place, image in self._listing}

    def __iter__(self) -> Iterator[str]:
        """Names of the images."""
        return iter(self._places)

    def caption(self, name: str) -> Caption | None:
        """The caption of an image, without a trigger word, and the file that it comes from."""
        return self._captions.of(*self._place(name))

    def replaced(self, replacement: Replacement, names: set[str] | None = None) -> dict[str, Edit]:
        """The captions that a replacement changes, of all images or of those that are named."""
        found: dict[str, Edit] = {}
        for name in self._places if names is None else [name for name in self._places if name in names]:
            caption = self.caption(name)
            before = caption.texts if caption else ()
            after = tuple(map(replacement, before))
            if after != before:
                found[name] = Edit(before, after, replacement.raw)
        return found

    def changes(self, edits: Mapping[str, Edit]) -> list[Change]:
        """The files that edits change.

        Args:
            edits: by names of images.

        Raises:
            CaptionError: a caption is no longer as it was shown, or cannot be written.
        """
        if self._source not in EDITABLE:
            what = "the file names" if self._source == "names" else "nowhere"
            raise CaptionError(
                f"captions: they come from {what}, and what is written would not be read",
                "Choose auto as captions in Load Dataset.",
            )
        files: dict[Path, Change] = {}
        rows: dict[Path, dict[Path, Texts]] = {}
        for name, edit in edits.items():
            place, image = self._place(name)
            caption = self.caption(name)
            now = caption.texts if caption else ()
            if now != edit.before:
                raise CaptionError(f"{name}: its caption was changed meanwhile: {', '.join(now) or 'none'}", _AGAIN)
            texts = dict.fromkeys(_checked(name, text) for text in edit.after)
            after: Texts = tuple(text for text in texts if text) or ("",)
            if after == (now or ("",)):
                continue
            path = caption.source if caption else self._home(place, image)
            if path.name.casefold() in TABLE_NAMES:
                rows.setdefault(path, {})[place.path / image] = after
            else:
                path = path.resolve()  # a link stays a link
                files[path] = _file(path, " ".join(after), edit.how)
        return [*files.values(), *(self._table(path, captions) for path, captions in rows.items())]

    def _place(self, name: str) -> tuple[Folder, str]:
        if name not in self._places:
            raise CaptionError(f"{name}: there is no such image in {self._listing.root}", _AGAIN)
        return self._places[name]

    def _home(self, place: Folder, image: str) -> Path:
        """The file that the caption of an image without one goes into."""
        by_subset = {folder.subset: folder for folder in self._listing.folders}
        above, tables = place.subset, list[Path]()
        while self._source != "files":
            if folder := by_subset.get(above):
                tables += [folder.path / name for name in folder.tables]
            if not above:
                break
            above = above.rpartition("/")[0]
        beside = place.sidecars(image)
        if tables and not beside:
            return tables[0]
        return place.path / (beside[0] if beside else f"{stem(image)}{SIDECAR_SUFFIXES[0]}")

    def _table(self, path: Path, captions: Mapping[Path, Texts]) -> Change:
        real = path.resolve()
        before = _read(real)
        table = read_table(path, self._listing)
        table.put(captions)
        after = encode(table.text(), before or b"")
        if isinstance(table, Table) and before is None:
            after = table.data()
        return Change(real, before, after)


class History:
    """What was changed in a folder, and can be undone: several steps, as long as the process lives."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._done: list[tuple[str, list[Change]]] = []
        self._undone: list[tuple[str, list[Change]]] = []

    @property
    def steps(self) -> tuple[list[str], list[str]]:
        """What can be undone, and what can be done again: the last is next."""
        return [title for title, _ in self._done], [title for title, _ in self._undone]

    def do(self, title: str, changes: Callable[[], list[Change]]) -> list[Change]:
        """Change files, as one step.

        Args:
            title: what it is, for people.
            changes: called when nobody else of this process changes the folder.

        Raises:
            CaptionError: a file has changed meanwhile, or cannot be written; then none is.
        """
        with self._lock:
            made = changes()
            write(made)
            if made:
                self._done.append((title, made))
                self._undone.clear()
                self._trim()
            return made

    def undo(self) -> tuple[str, list[Change]]:
        """Take the last step back: its title, and what was changed.

        Raises:
            CaptionError: there is none, a file was changed since, or it cannot be written; then none is.
        """
        return self._step(self._done, self._undone, "undo")

    def redo(self) -> tuple[str, list[Change]]:
        """Do again what was undone last; as ``undo``."""
        return self._step(self._undone, self._done, "redo")

    def _step(
        self, source: list[tuple[str, list[Change]]], target: list[tuple[str, list[Change]]], what: str
    ) -> tuple[str, list[Change]]:
        with self._lock:
            if not source:
                raise CaptionError(f"there is nothing to {what}", "ComfyUI forgets these steps when it is restarted.")
            title, made = source[-1]
            back = [Change(change.path, change.after, change.before) for change in made]
            write(back)
            source.pop()
            target.append((title, back))
            return title, back

    def _trim(self) -> None:
        def size(step: tuple[str, list[Change]]) -> int:
            return sum(len(change.before or b"") + len(change.after or b"") for change in step[1])

        while len(self._done) > 1 and (len(self._done) > _MOST_STEPS or sum(map(size, self._done)) > _MOST_BYTES):
            self._done.pop(0)


def write(changes: list[Change]) -> None:
    """Write files, all or none.

    Raises:
        CaptionError: one is not as it was, or cannot be written.
    """
    for change in changes:
        if _read(change.path) != change.before:
            raise CaptionError(f"{change.path.name}: the file was changed meanwhile", _AGAIN)
        if change.before is not None and not os.stat(change.path).st_mode & stat.S_IWUSR:
            raise CaptionError(f"{change.path.name}: the file is read-only", "Allow writing, and try again.")
    done: list[Change] = []
    try:
        for change in changes:
            _put(change.path, change.after)
            done.append(change)
    except CaptionError:
        for change in done:
            _put(change.path, change.before)
        raise


def _put(path: Path, data: bytes | None) -> None:
    if data is not None:
        write_file(path, data)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CaptionError(f"{path}: cannot be removed: {error.strerror}", "Check the folder's permissions.") from None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CaptionError(f"{path}: cannot be read: {error.strerror}", "Check its permissions.") from None


def _file(path: Path, caption: str, how: Callable[[str], str] | None) -> Change:
    """A caption file with another caption; the blanks and line ends around it stay."""
    before = _read(path)
    try:
        text = decode(before or b"")[0]
    except ValueError as error:
        raise CaptionError(f"{path.name}: {error}; it is left as it is", "Save it as UTF-8, or remove it.") from None
    core = text.strip()
    at = text.index(core)
    raw = how(core) if how and "\n" in core else ""
    new = raw if tidy(raw) == caption and raw else caption
    end = text[at + len(core) :] if core else "\n"
    after = encode(f"{text[:at] if core else ''}{new}{end}", before or b"")
    if len(after) > MAX_SIDECAR_BYTES:
        raise CaptionError(f"{path.name}: the caption is longer than a caption file may be", "Shorten it.")
    return Change(path, before, after)


def _checked(name: str, text: str) -> str:
    tidied = tidy(text)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in tidied):
        raise CaptionError(f"{name}: the caption has control characters", "Type it anew.")
    return tidied


def _name(place: Folder, image: str) -> str:
    return f"{place.subset}/{image}" if place.subset else image
