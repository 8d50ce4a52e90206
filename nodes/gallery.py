"""A data set for the page, picture by picture: what is in it, thumbnails, and captions that are edited there."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, StringConstraints

from ..trainer.captioning import album, editing
from ..trainer.captioning.editing import Change, Edit, History, Replacement, Shelf
from ..trainer.dataset import ImageItem, fingerprint
from ..trainer.dataset.frequencies import frequencies
from ..trainer.dataset.pixels import Unusable, thumbnail
from ..trainer.errors import CaptionError, HostError
from ..trainer.files import digest, trim, write_bytes
from .asked import Asked, Name, Number
from .dataset import Values, asked_for
from .host import demo_pictures, places
from .payloads import DatasetRef

SIDE, LARGE = 192, 1024
MOST_BYTES, IN_USE = 256 * 2**20, 3600.0
_KEPT = 8  # data sets that are remembered
_DECODING = threading.Semaphore(2)  # a data set's pictures may have tens of megapixels each
_TRIMMED_EVERY = 500
_SHOWN = 5  # captions before and after a replacement
_MOST_WORDS = 500
T = TypeVar("T")
Text = Annotated[str, StringConstraints(max_length=100_000)]
Texts = Annotated[tuple[Text, ...], Field(max_length=1000, strict=False)]


class Seen(Asked):
    """Args: dataset: Load Dataset's values. resolution: of the training, in pixels."""

    dataset: Values
    resolution: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] = 512


class Some(Asked):
    """Args: dataset: Load Dataset's values. after: samples that are passed over. most: samples at most."""

    dataset: Values
    after: Number = 0
    most: Annotated[int, Field(ge=1, le=1000)] = 200


class Thumbnail(Asked):
    """Args: album: as ``pictures`` named it. image: its name. of: its content, for the browser's memory alone."""

    album: Name
    image: Name
    of: Name = ""
    large: Literal["", "yes"] = ""


class Saved(Asked):
    """Args: dataset: Load Dataset's values. image: its name. before: its captions as they were shown. after: typed."""

    dataset: Values
    image: Name
    before: Texts
    after: Texts


class Replaced(Asked):
    """Args: dataset: Load Dataset's values. images: of these alone, by name. preview: nothing is written."""

    dataset: Values
    find: Text
    put: Text = ""
    whole: bool = False
    case: bool = False
    images: Annotated[tuple[Name, ...], Field(max_length=200_000, strict=False)] | None = None
    preview: bool = True


class Step(Asked):
    """Args: dataset: Load Dataset's values. redo: what was undone is done again."""

    dataset: Values
    redo: bool = False


@dataclass(frozen=True)
class _Known:
    """Args: root: the folder. key: of what was asked for it. told: the answer. items: its images, by name."""

    root: Path
    key: str
    told: dict[str, Any]
    items: dict[str, ImageItem]


class _Memory(Generic[T]):
    """What was used last, a few of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str, make: Callable[[], T] | None = None) -> T | None:
        """The value of a key; made where it is missing, if it can be."""
        with self._lock:
            if key not in self._kept and make is not None:
                self._put(key, make())
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, value: T) -> None:
        """Remember a value; the one that was used longest ago is forgotten."""
        with self._lock:
            self._put(key, value)

    def _put(self, key: str, value: T) -> None:
        self._kept[key] = value
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)


_known: _Memory[_Known] = _Memory()
_histories: _Memory[History] = _Memory()
_drawn = 0


def pictures(asked: Seen) -> dict[str, Any]:
    """POST /dataset/pictures: see ``album.album``; what did not change is remembered.

    Returns:
        Beside it: ``album``, its name for thumbnails; ``locked``: why its captions cannot be edited, or nothing;
        ``undo`` and ``redo``: what can be, the last first.

    Raises:
        HostError: the client may not read there, or it is text.
        DatasetError: it cannot be trained on.
    """
    ref = _images(asked.dataset)
    name = digest("album", str(ref.folder))
    described = (str(asked.resolution), ref.trigger_word, ref.captions, *ref.exclude)
    key = digest(fingerprint(ref.folder), *described)
    known = _known.get(name)
    if known is None or known.key != key:
        found = album.album(
            ref.folder,
            resolution=asked.resolution,
            trigger_word=ref.trigger_word,
            captions=ref.captions,
            exclude=ref.exclude,
        )
        known = _Known(ref.folder, key, found.told, found.items)
        _known.put(name, known)
    return {**known.told, "album": name, "locked": _locked(ref), "root": places.shown(ref.folder), **_steps(ref)}


def texts(asked: Some) -> dict[str, Any]:
    """POST /dataset/texts: see ``album.samples``.

    Raises:
        HostError: the client may not read there, or it holds images.
        DatasetError: it cannot be trained on.
    """
    ref = asked_for(asked.dataset)
    if not ref.text:
        raise HostError(f"{places.shown(ref.folder)} holds images", "look at the pictures")
    return {**album.samples(ref.texts(), asked.after, asked.most), "root": places.shown(ref.folder)}


def picture(asked: Thumbnail) -> Path:
    """GET /dataset/thumbnail: a picture as WebP, upright, its longer side ``SIDE`` pixels, or ``LARGE`` at most.

    Raises:
        HostError: there is no such album or image; the client may not read there; or it cannot be decoded any more.
    """
    known = _known.get(asked.album)
    item = known and known.items.get(asked.image)
    if not known or not item:
        raise HostError(f"{asked.image}: there is no such picture", "look at the pictures anew")
    places.readable(str(known.root), "folder")
    side = min(LARGE, max(item.size)) if asked.large else SIDE
    try:
        stat = item.path.stat()
    except OSError as error:
        raise HostError(f"{item.name}: cannot be read: {error.strerror}", "look at the pictures anew") from None
    name = digest(str(item.path), stat.st_size, stat.st_mtime_ns, item.content, side)
    file = places.private() / "thumbnails" / f"{name}.webp"
    if not file.is_file():
        with _DECODING:
            _draw(item, side, file)
    return file


def words(asked: Seen) -> dict[str, Any]:
    """POST /dataset/words: ``kind``, tags or words; ``captions``, how many; ``counts``: (tag or word, captions).

    Raises:
        HostError: the client may not read there, or it is text.
        DatasetError: it cannot be trained on.
    """
    found = frequencies(_images(asked.dataset).scan(resolution=asked.resolution).items)
    return {"kind": found.kind, "captions": found.captions, "counts": found.counts[:_MOST_WORDS]}


def save(asked: Saved) -> dict[str, Any]:
    """POST /dataset/caption: write a caption of an image; what it is now, and into which files it went.

    Raises:
        HostError: the client may not write there.
        CaptionError: the caption was changed meanwhile, or cannot be written.
    """
    ref = _editable(asked.dataset)
    edit = Edit(asked.before, asked.after)
    title = asked.image
    made = _history(ref).do(title, lambda: _allowed(_shelf(ref).changes({asked.image: edit})))
    caption = _shelf(ref).caption(asked.image)
    source = caption.source.name if caption else ""
    return {"captions": caption.texts if caption else (), "source": source, "files": _files(made), **_steps(ref)}


def replace(asked: Replaced) -> dict[str, Any]:
    """POST /dataset/replace: find and replace in captions, one step for ``undo``.

    Returns:
        ``captions``: how many change, ``places``: in how many places, ``shown``: (image, before, after) of some,
        ``files``: what was written.

    Raises:
        HostError: the client may not write there.
        CaptionError: nothing is looked for, or a caption cannot be written.
    """
    ref = _editable(asked.dataset)
    replacement = Replacement(asked.find, asked.put, asked.whole, asked.case)
    images = None if asked.images is None else set(asked.images)
    edits: dict[str, Edit] = {}

    def changes() -> list[Change]:
        shelf = _shelf(ref)
        edits.update(shelf.replaced(replacement, images))
        return [] if asked.preview else _allowed(shelf.changes(edits))

    made = _history(ref).do(f"{asked.find} \u2192 {asked.put}", changes)
    return {
        "captions": len(edits),
        "places": sum(replacement.places(text) for edit in edits.values() for text in edit.before),
        "shown": [
            (name, old, new)
            for name, edit in list(edits.items())[:_SHOWN]
            for old, new in zip(edit.before, edit.after, strict=True)
            if old != new
        ][:_SHOWN],
        "files": _files(made),
        **_steps(ref),
    }


def step(asked: Step) -> dict[str, Any]:
    """POST /dataset/undo: take the last change of captions back, or do it again; byte for byte.

    Raises:
        HostError: the client may not write there.
        CaptionError: there is nothing to undo, or a file was changed since.
    """
    ref = _editable(asked.dataset)
    history = _history(ref)
    title, made = history.redo() if asked.redo else history.undo()
    return {"title": title, "files": _files(made), **_steps(ref)}


def _images(values: Values) -> DatasetRef:
    ref = asked_for(values)
    if ref.text:
        raise HostError(f"{places.shown(ref.folder)} holds text, expected images", "choose a folder with images")
    return ref


def _editable(values: Values) -> DatasetRef:
    ref = _images(values)
    why = _locked(ref)
    if why:
        raise HostError(why["why"], why["cure"])
    return ref


def _locked(ref: DatasetRef) -> dict[str, str] | None:
    """Why captions of a data set cannot be edited, and what to do about it."""
    folder = ref.folder.resolve()
    demo = [(places.input_root() / name).resolve() for name in (demo_pictures.NAME, demo_pictures.BARE)]
    if folder in demo:
        return {
            "why": "the demo's pictures and captions are never changed",
            "cure": "drop pictures of your own on Load Dataset, and edit their captions",
        }
    if folder.is_relative_to(places.datasets().resolve()):
        return {
            "why": "these are pictures that the graph gave: they are known by what is in them, and never changed",
            "cure": "change the texts that are wired, or put Auto Caption behind Load Dataset",
        }
    if ref.captions not in editing.EDITABLE:
        return {
            "why": f"captions: they come from {'the file names' if ref.captions == 'names' else 'nowhere'}",
            "cure": "choose auto as captions in Load Dataset to edit them",
        }
    return None


def _allowed(changes: list[Change]) -> list[Change]:
    """Changes, if the client may write there: a caption file may be a link to elsewhere.

    Raises:
        HostError: it may not.
    """
    for change in changes:
        places.readable(str(change.path), "captions")
    return changes


def _shelf(ref: DatasetRef) -> Shelf:
    return Shelf(ref.folder, ref.captions)


def _history(ref: DatasetRef) -> History:
    history = _histories.get(str(ref.folder), History)
    assert history is not None
    return history


def _steps(ref: DatasetRef) -> dict[str, Any]:
    done, undone = _history(ref).steps
    return {"undo": done[:-11:-1], "redo": undone[:-11:-1]}


def _files(made: list[Change]) -> list[str]:
    return [change.path.name for change in made[:100]]


def _draw(item: ImageItem, side: int, file: Path) -> None:
    global _drawn
    data = io.BytesIO()
    try:
        thumbnail(item, side).save(data, "WEBP", quality=80, method=2)
    except Unusable as error:
        raise HostError(f"{item.name}: {error.message}", "look at the pictures anew") from None
    try:
        write_bytes(file, data.getvalue())
        _drawn += 1
        if _drawn % _TRIMMED_EVERY == 0:
            trim(file.parent, MOST_BYTES, IN_USE)
    except OSError as error:
        raise CaptionError(f"{file.parent}: cannot be written: {error.strerror}", "free some space") from None
