"""Captions a folder of images: the only code that writes into a user's folder, and only caption files.

What is written is written whole or not at all. Nothing that a user wrote is lost: the mode ``missing`` (the default)
leaves every caption alone; the other modes keep the former file beside the new one, as ``metadata.csv.bak`` or
``name.txt.bak`` (``.bak2``, ... where there is one already).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..dataset.captions import Captions, contains_word, with_trigger
from ..dataset.files import METADATA_NAME, Listing, list_folder
from ..dataset.items import Problem
from ..errors import CaptionError
from ..events import Captioned, Phase, Sink, Warned
from ..files import digest
from . import registry
from .base import Captioner, Place, Wish
from .batches import Batches
from .rules import Rules
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
    """

    output: Path
    written: Mapping[Path, str]
    kept: tuple[Path, ...]
    backups: tuple[Path, ...]
    problems: tuple[Problem, ...]
    left: int = 0

    def __str__(self) -> str:
        what = "1 caption" if len(self.written) == 1 else f"{len(self.written)} captions"
        lines = [f"{what} written to {self.output}, {len(self.kept)} left as they were"]
        if not self.written and not self.output.exists():
            lines = [f"no caption written, {len(self.kept)} left as they were; {self.output} was not made"]
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
    place: Place | None = None,
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
        place: where the captioner works; its model, if it has one (``models.find``).
        emit: told ``Captioned`` for each batch; also ``Phase`` and ``Warned``.
        stop: asked between batches.

    Raises:
        CaptionError: an argument is wrong, captions cannot be made, or a file cannot be written.
        DatasetError: the folder holds no images, or an existing table cannot be read.
    """
    for name, value, known in (("mode", mode, MODES), ("format", format, FORMATS)):
        if value not in known:
            raise CaptionError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    captioner = registry.get(method) if isinstance(method, str) else method
    wish, rules, place = replace(wish or Wish(), trigger_word=trigger_word), rules or Rules(), place or Place()
    if captioner.models and place.model is None:
        raise CaptionError(f"{captioner.name}: no model is named", "Name one, or its folder.")
    listing = list_folder(folder)
    target = _target(listing, output, format)
    sidecars = {folder.path / name: [folder.path / s for s in folder.sidecars(name)] for folder, name in listing}
    former, problems = _former(listing, target, format)
    # A caption file that cannot be read may be the work of hours: it is replaced only if all are to be.
    broken = {problem.path for problem in problems if problem.kind == "bad-caption"}
    unread = {image for image, paths in sidecars.items() if broken.intersection(paths)}
    if format == "csv":
        unread -= set(former)  # Their captions are known; the broken files are not written to.
    asked = digest(captioner.name, str(place.model), asdict(wish), asdict(rules), mode, format, str(target))
    unfinished = Unfinished(target.parent if format == "csv" else target, asked)
    names = {image: image.relative_to(listing.root).as_posix() for image in sidecars}
    kept = {
        image
        for image in sidecars
        if _is_kept(image, mode, former, unread) or unfinished.is_done(names[image], former.get(image, ()))
    }
    images = [image for image in sidecars if image not in kept]
    writing = Rows(target, listing, unfinished.has_kept) if format == "csv" else Files(sidecars)
    written: dict[Path, tuple[str, ...]] = {}
    left = 0

    def take(said: Sequence[tuple[Path, str]]) -> None:
        new: dict[Path, tuple[str, ...]] = {}
        changes: dict[str, Change] = {}
        for image, found in said:
            old = former.get(image, ("",))
            texts = _texts(old, rules(found), mode, trigger_word)
            if not texts:
                message = f"no caption: the method {captioner.name!r} found no words"
                problems.append(Problem(image, "no-caption", message))
                continue
            changes[names[image]] = former.get(image, ()), texts
            if writing.changed(image):
                changes[names[image]] = ("edited",), ()  # nobody's: whatever they are the next time, they stay
                kept.add(image)
            elif texts == old:
                kept.add(image)
            else:
                new[image] = texts

        def note(table: bytes | None) -> None:
            if mode != "missing":
                unfinished.note(changes, table)

        if new:
            writing.write(new, note)
            written.update(new)
        elif changes:
            note(None)

    if images and captioner.models:
        emit(Phase(f"loading the model {place.model}"))
    if images:
        with captioner.open(wish, place) as session:
            batches = Batches(session, images, captioner.looks, place.device, lambda message: emit(Warned(message)))
            for said in batches:
                take(said)
                image, done = said[-1][0], len(images) - batches.left
                caption = (written.get(image) or former.get(image) or ("",))[0]
                emit(Captioned(names[image], caption, done, len(images), batches.eta))
                if stop():
                    break
            problems += batches.problems
            left = batches.left
    if not left:
        unfinished.end()
    problems += _hidden_by_table(listing, target, format, written)
    return Report(
        target,
        {image: texts[0] for image, texts in written.items()},
        tuple(image for image in sidecars if image in kept),
        tuple(writing.backups),
        tuple(listing.placed(problem) for problem in problems),
        left,
    )


def _texts(old: tuple[str, ...], new: str, mode: str, trigger_word: str) -> tuple[str, ...]:
    """What becomes of an image's captions; empty where there is nothing to say."""
    found = (with_trigger(_combined(text, new, mode), trigger_word) for text in old)
    return tuple(dict.fromkeys(text for text in found if text))


def _target(listing: Listing, output: str | Path | None, format: str) -> Path:
    """The table, or the folder, that is written to."""
    path = listing.root if output is None else Path(os.path.abspath(Path(output).expanduser()))
    if path.suffix.lower() == ".csv" and not path.is_dir():
        if format != "csv":
            raise CaptionError(f"output: {path.name} is a table, but the format is txt", "Leave one of them out.")
        if not path.parent.is_dir():
            raise CaptionError(f"output: the folder {path.parent} does not exist", "Create it, or check the path.")
        return path
    if not path.is_dir():
        raise CaptionError(f"output: expected a .csv file or the folder of the images, got {path}")
    if format == "csv":
        if listing.metadata is not None and path == listing.root:
            return listing.metadata
        return path / METADATA_NAME
    if path.resolve() != listing.root.resolve():
        raise CaptionError(
            f"output: .txt files belong beside their images in {listing.root}, not in {path}",
            "Leave the output out, or name a .csv file.",
        )
    return listing.root


def _former(listing: Listing, target: Path, format: str) -> tuple[dict[Path, tuple[str, ...]], list[Problem]]:
    """The captions that training would use with the output in place, and what is wrong with their sources."""
    if format == "csv" and not _is_found(listing, target):
        captions = Captions(listing, target if target.exists() else None, tables=False)
    else:
        captions = Captions(listing)
    found = {folder.path / name: captions.of(folder, name) for folder, name in listing}
    return {image: caption.texts for image, caption in found.items() if caption}, captions.problems


def _is_found(listing: Listing, target: Path) -> bool:
    """Whether training finds this table without being told of it."""
    return target.parent == listing.root and target.name.casefold() == METADATA_NAME


def _is_kept(image: Path, mode: str, former: Mapping[Path, tuple[str, ...]], unread: set[Path]) -> bool:
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


def _hidden_by_table(
    listing: Listing, target: Path, format: str, written: Mapping[Path, tuple[str, ...]]
) -> list[Problem]:
    """Tables that win over what was written: over .txt files each, over the dataset's table those of its subfolders."""
    if not written or (format == "csv" and not _is_found(listing, target)):
        return []
    tables = {folder.path / name for folder in listing.folders for name in folder.tables}
    if format == "csv":
        tables = {path for path in tables if path.parent != listing.root}
    captions = Captions(listing) if tables else None
    hidden: Counter[Path] = Counter()
    for folder, name in listing if captions else ():
        caption = captions.of(folder, name) if captions and folder.path / name in written else None
        if caption and caption.source in tables:
            hidden[caption.source] += 1
    problems: list[Problem] = []
    for path, count in hidden.items():
        one, many = ("the row", "the rows") if format == "csv" else ("the .txt file", "the .txt files")
        what = f"{one} of 1 image that was" if count == 1 else f"{many} of {count} images that were"
        message = f"wins over {what} written now; rename it to use what was written"
        problems.append(Problem(path, "caption-conflict", message))
    return problems
