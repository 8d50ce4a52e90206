"""Captions a folder of images: the only code that writes into a user's folder, and only caption files.

What is written is written whole or not at all. Nothing that a user wrote is lost: the mode ``missing`` (the default)
leaves every caption alone; the other modes keep the former file beside the new one, as ``metadata.csv.bak`` or
``name.txt.bak`` (``.bak2``, ... where there is one already).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..dataset.captions import contains_word, with_trigger
from ..dataset.files import list_folder
from ..dataset.findings import counted
from ..dataset.items import Problem
from ..errors import CaptionError
from ..events import Captioned, Phase, Sink, Warned
from ..files import clear, digest
from . import registry, where
from .base import Captioner, Place, Wish
from .batches import Batches
from .rules import Rules
from .table import Texts
from .unfinished import Change, Unfinished
from .writing import Files, Rows

#: What happens to an image that has a caption; one without always gets the new one.
MODES = {
    "missing": "it keeps its caption",
    "all": "its caption is replaced",
    "append": "the new caption is put behind it",
    "prepend": "the new caption is put before it",
}
FORMATS = {"csv": "one table, metadata.csv (filename,prompt)", "txt": "a .txt file beside each image"}


@dataclass(frozen=True)
class Report:
    """What was done.

    Attributes:
        output: the table, or the folder with the .txt files.
        written: the new caption of each image that got one; of several alternatives, the first.
        kept: images whose caption was left as it is.
        backups: copies of the files that were replaced.
        problems: images without a caption now, caption files that cannot be read, sources that hide others.
        left: images that a stop left for the next time.
        before: of the images that were kept, those that a run which was stopped had captioned.
    """

    output: Path
    written: Mapping[Path, str]
    kept: tuple[Path, ...]
    backups: tuple[Path, ...]
    problems: tuple[Problem, ...]
    left: int = 0
    before: int = 0

    def __str__(self) -> str:
        lines = [
            f"{counted(len(self.written), 'caption')} written to {self.output}, {len(self.kept)} left as they were"
        ]
        if not self.written and not self.output.exists():
            lines = [f"no caption written, {len(self.kept)} left as they were; {self.output} was not made"]
        if self.before:
            lines.append(f"- went on with a run that was stopped: {self.before} were done")
        if self.left:
            lines.append(f"- stopped: {self.left} are left for the next time")
        lines += [f"- kept the former file as {path.name}" for path in self.backups[:3]]
        if len(self.backups) > 3:
            lines.append(f"- and {len(self.backups) - 3} more of them")
        return "\n".join([*lines, *(f"- {problem}" for problem in self.problems)])


def label(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    method: str | Captioner = "filename",
    trigger_word: str = "",
    mode: str = "missing",
    format: str = "csv",
    wish: Wish | None = None,
    rules: Rules | None = None,
    place: Place | Callable[[], Place] | None = None,
    exclude: Iterable[str] = (),
    emit: Sink = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Writes captions for the images of a folder.

    Every caption is one line. The trigger word, if any, stands first in each that is written, unless the caption
    holds it already. A caption that holds the new one already does not get it a second time, so that repeating
    ``append`` or ``prepend`` changes nothing. Where a captioner has nothing to say, a former caption stays. Of an image
    with alternatives each one is added to; ``all`` puts one in the place of all of them.

    What a captioner gives is written at once. After a stop, however it came, the next call goes on with what is still
    to do, and what somebody has edited since then, or while this runs, stays as it is.

    Args:
        folder: the images lie in it, or in folders below.
        output: where to write: a .csv file, or the folder itself. By default ``metadata.csv`` in the folder, or the
            .txt files beside the images.
        method: name of a captioner, or one of the caller's own.
        trigger_word: the word that will call what is trained.
        mode: one of ``MODES``.
        format: one of ``FORMATS``.
        wish: what is asked of the captioner; its trigger word is ``trigger_word``.
        rules: what is done to each caption.
        place: where the captioner works; its model, if it has one (``models.find``). A function is called only if there
            is an image to caption.
        exclude: names of images that are left as they are, relative to the folder.
        emit: told ``Captioned`` for each batch; also ``Phase`` and ``Warned``.
        stop: asked between batches.

    Raises:
        CaptionError: an argument is wrong, captions cannot be made, or a file cannot be written.
        DatasetError: the folder holds no images, or an existing table cannot be read.
    """
    captioner = registry.get(method) if isinstance(method, str) else method
    wish, rules = replace(wish or Wish(), trigger_word=trigger_word), rules or Rules()
    run = _Run(folder, output, mode, format, captioner.name, digest(asdict(wish), asdict(rules)), exclude)
    if not run.images:
        return run.report()
    place = place() if callable(place) else place or Place()
    if captioner.models:
        if place.model is None:
            raise CaptionError(f"{captioner.name}: no model is named", "Name one, or its folder.")
        emit(Phase(f"loading the model {place.model}"))
    with captioner.open(wish, place) as session:
        batches = Batches(session, run.images, captioner.looks, place.device, lambda message: emit(Warned(message)))
        for said in batches:
            run.write({image: rules(text) for image, text in said}, trigger_word)
            emit(run.progress(said[-1][0], batches))
            if stop():
                break
    return run.report(batches)


class _Run:
    """A folder whose captions are being written.

    Args:
        folder: as in ``label``.
        output: as in ``label``.
        mode: as in ``label``.
        format: as in ``label``.
        method: the captioner's name.
        asked: names what is asked; where the rest is the same too, a run that was stopped goes on.
        exclude: as in ``label``.

    Attributes:
        images: those that are to be captioned.
    """

    def __init__(
        self,
        folder: str | Path,
        output: str | Path | None,
        mode: str,
        format: str,
        method: str,
        asked: str,
        exclude: Iterable[str] = (),
    ) -> None:
        for name, value, known in (("mode", mode, MODES), ("format", format, FORMATS)):
            if value not in known:
                raise CaptionError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        self._mode, self._format, self._method = mode, format, method
        self._listing = listing = list_folder(folder)
        self._target = where.target(listing, output, format)
        self._former, self._problems = where.former(listing, self._target, format)
        for written_to in {self._target.parent} if format == "csv" else {place.path for place in listing.folders}:
            clear(written_to)
        self._names = {place.path / name: f"{place.subset}/{name}".lstrip("/") for place, name in listing}
        sidecars = {place.path / name: [place.path / one for one in place.sidecars(name)] for place, name in listing}
        # A caption file that cannot be read may be the work of hours: it is replaced only if all are to be.
        broken = {problem.path for problem in self._problems if problem.kind == "bad-caption"}
        unread = {image for image, paths in sidecars.items() if broken.intersection(paths)}
        if format == "csv":
            unread -= set(self._former)  # Their captions are known; the broken files are not written to.
        beside = self._target.parent if format == "csv" else self._target
        self._unfinished = Unfinished(beside, digest(method, asked, mode, format, str(self._target)))
        self._kept = {image for image in sidecars if _is_kept(image, mode, self._former, unread)}
        done = {i for i, name in self._names.items() if self._unfinished.is_done(name, self._former.get(i, ()))}
        self._before = len(done - self._kept)
        left_out = set(listing.without(exclude)[1])
        self._kept |= done | {image for image, name in self._names.items() if name in left_out}
        self.images = [image for image in sidecars if image not in self._kept]
        self._writing = Rows(self._target, listing, self._unfinished.has_kept) if format == "csv" else Files(sidecars)
        self._written: dict[Path, Texts] = {}

    def write(self, said: Mapping[Path, str], trigger_word: str) -> None:
        """Write what is said of images, unless somebody has changed their captions since the run began."""
        new: dict[Path, Texts] = {}
        changes: dict[str, Change] = {}
        for image, found in said.items():
            old = self._former.get(image, ("",))
            texts = _texts(old, found, self._mode, trigger_word)
            if not texts:
                message = f"no caption: the method {self._method!r} found no words"
                self._problems.append(Problem(image, "no-caption", message))
                continue
            name = self._names[image]
            changes[name] = self._former.get(image, ()), texts
            if self._writing.changed(image):
                changes[name] = ("edited",), ()  # nobody's: whatever they are the next time, they stay
                self._kept.add(image)
            elif texts == old:
                self._kept.add(image)
            else:
                new[image] = texts

        def note(table: bytes | None) -> None:
            if self._mode != "missing":
                self._unfinished.note(changes, table)

        if new:
            self._writing.write(new, note)
            self._written |= new
        elif changes:
            note(None)

    def progress(self, image: Path, batches: Batches) -> Captioned:
        """How far it is, with the image that was captioned last."""
        texts = self._written.get(image) or self._former.get(image) or ("",)
        total = len(self.images)
        return Captioned(self._names[image], texts[0], total - batches.left, total, batches.eta)

    def report(self, batches: Batches | None = None) -> Report:
        """What was done."""
        left = batches.left if batches else 0
        if not left:
            self._unfinished.end()
        problems = [*self._problems, *(batches.problems if batches else ())]
        problems += where.hidden(self._listing, self._target, self._format, self._written)
        return Report(
            self._target,
            {image: texts[0] for image, texts in self._written.items()},
            tuple(image for image in self._names if image in self._kept),
            tuple(self._writing.backups),
            tuple(self._listing.placed(problem) for problem in problems),
            left,
            self._before,
        )


def _texts(old: Texts, new: str, mode: str, trigger_word: str) -> Texts:
    """What becomes of an image's captions; empty where there is nothing to say."""
    found = (with_trigger(_combined(text, new, mode), trigger_word) for text in old)
    return tuple(dict.fromkeys(text for text in found if text))


def _is_kept(image: Path, mode: str, former: Mapping[Path, Texts], unread: set[Path]) -> bool:
    if mode == "all":
        return False
    return image in unread or (mode == "missing" and image in former)


def _combined(old: str, new: str, mode: str) -> str:
    if not old or not new:
        return new or old
    if mode == "all":
        return new
    if contains_word(old, new):
        return old
    return f"{old}, {new}" if mode == "append" else f"{new}, {old}"
