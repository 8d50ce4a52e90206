"""Captions a folder of images: the only code that writes into a user's folder, and only caption files.

What is written is written whole or not at all. Nothing that a user wrote is lost: the mode ``missing`` (the default)
leaves every caption alone; the other modes keep the former file beside the new one, as ``metadata.csv.bak`` or
``name.txt.bak`` (``.bak2``, ... where there is one already).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..dataset.captions import Captions, contains_word, tidy, with_trigger
from ..dataset.files import METADATA_NAME, SIDECAR_SUFFIXES, Listing, list_folder
from ..dataset.items import Problem
from ..errors import CaptionError
from ..files import write_bytes
from . import registry, table
from .base import Place, Wish

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
    """

    output: Path
    written: Mapping[Path, str]
    kept: tuple[Path, ...]
    backups: tuple[Path, ...]
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        what = "1 caption" if len(self.written) == 1 else f"{len(self.written)} captions"
        lines = [f"{what} written to {self.output}, {len(self.kept)} left as they were"]
        if not self.written and not self.output.exists():
            lines = [f"no caption written, {len(self.kept)} left as they were; {self.output} was not made"]
        lines += [f"- kept the former file as {path.name}" for path in self.backups[:3]]
        if len(self.backups) > 3:
            lines.append(f"- and {len(self.backups) - 3} more of them")
        return "\n".join([*lines, *(f"- {problem}" for problem in self.problems)])


def label(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    method: str = "filename",
    trigger_word: str = "",
    mode: str = "missing",
    format: str = "csv",
) -> Report:
    """Writes captions for the images of a folder.

    Every caption is one line. The trigger word, if any, stands first in each that is written, unless the caption
    holds it already. A caption that holds the new one already does not get it a second time, so that repeating
    ``append`` or ``prepend`` changes nothing. Where a captioner has nothing to say, a former caption stays. Of an image
    with alternatives each one is added to; ``all`` puts one in the place of all of them.

    Args:
        folder: the images lie in it, or in folders below.
        output: where to write: a .csv file, or the folder itself. By default ``metadata.csv`` in the folder, or the
            .txt files beside the images.
        method: name of a captioner.
        trigger_word: the word that will call what is trained.
        mode: one of ``MODES``.
        format: one of ``FORMATS``.

    Raises:
        CaptionError: an argument is wrong, captions cannot be made, or a file cannot be written.
        DatasetError: the folder holds no images, or an existing table cannot be read.
    """
    for name, value, known in (("mode", mode, MODES), ("format", format, FORMATS)):
        if value not in known:
            raise CaptionError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    captioner = registry.get(method)
    listing = list_folder(folder)
    target = _target(listing, output, format)
    sidecars = {folder.path / name: [folder.path / s for s in folder.sidecars(name)] for folder, name in listing}
    former, problems = _former(listing, target, format)
    # A caption file that cannot be read may be the work of hours: it is replaced only if all are to be.
    broken = {problem.path for problem in problems if problem.kind == "bad-caption"}
    unread = {image for image, paths in sidecars.items() if broken.intersection(paths)}
    if format == "csv":
        unread -= set(former)  # Their captions are known; the broken files are not written to.
    kept = {image for image in sidecars if _is_kept(image, mode, former, unread)}
    images = [image for image in sidecars if image not in kept]
    written: dict[Path, tuple[str, ...]] = {}
    with captioner.open(Wish(trigger_word=trigger_word), Place()) as session:
        captions = session.caption(images, ())
    for image, found in zip(images, captions, strict=True):
        old = former.get(image, ("",))
        new = (with_trigger(_combined(text, tidy(found), mode), trigger_word) for text in old)
        texts = tuple(dict.fromkeys(text for text in new if text))
        if not texts:
            problems.append(Problem(image, "no-caption", f"no caption: the method {method!r} found no words"))
        elif texts == old:
            kept.add(image)
        else:
            written[image] = texts
    if format == "csv":
        backups = _write_table(target, listing, written)
    else:
        backups = _write_sidecars(sidecars, written)
    problems += _hidden_by_table(listing, target, format, written)
    return Report(
        target,
        {image: texts[0] for image, texts in written.items()},
        tuple(image for image in sidecars if image in kept),
        tuple(backups),
        tuple(listing.placed(problem) for problem in problems),
    )


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


def _write_table(path: Path, listing: Listing, written: Mapping[Path, tuple[str, ...]]) -> list[Path]:
    if not written:
        return []
    data, replaced = table.edited(path, listing, written)
    return _write(path, data, keep=replaced)


def _write_sidecars(sidecars: Mapping[Path, list[Path]], written: Mapping[Path, tuple[str, ...]]) -> list[Path]:
    backups: list[Path] = []
    done: set[Path] = set()
    for image, texts in written.items():
        path = next(iter(sidecars[image]), image.with_suffix(SIDECAR_SUFFIXES[0]))
        # a.png and a.jpg share a.txt.
        if path not in done:
            done.add(path)
            backups += _write(path, f"{texts[0]}\n".encode(), keep=path.exists() and path.stat().st_size > 0)
    return backups


def _write(path: Path, data: bytes, *, keep: bool) -> list[Path]:
    """Writes a file whole; with ``keep`` after a copy of the former one, whose path is returned."""
    # A link stays a link.
    path = path.resolve()
    try:
        backups = []
        if keep:
            backups.append(_free(path))
            write_bytes(backups[0], path.read_bytes())
        write_bytes(path, data)
    except OSError as error:
        raise CaptionError(f"{path}: cannot be written: {error.strerror}", "Check the folder's permissions.") from None
    return backups


def _free(path: Path) -> Path:
    number = 1
    while True:
        backup = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not backup.exists():
            return backup
        number += 1


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
