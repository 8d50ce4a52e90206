"""What a run that replaces captions has done so far, so that after a stop the next one goes on.

Where captions are missing, the files themselves tell what is still to do. Where all are replaced or added to, they do
not: a hidden file beside them says which are new, until the run has come to its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..errors import CaptionError
from ..files import digest
from .table import Texts

NAME = ".captions-unfinished.jsonl"


Change = tuple[Texts, Texts]
"""An image's captions, before and after."""


class Unfinished:
    """The file of a run that may be stopped.

    Args:
        folder: where captions are written.
        run: names what is asked; another run's file is no use.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._path, self._run = folder / NAME, run
        head, *lines = _read(self._path) or [{}]
        self._begun = head.get("run") == run
        lines = lines if self._begun else []
        self._images = {line["image"]: (line["before"], line["after"]) for line in lines if "image" in line}
        self._tables = {line["table"] for line in lines if "table" in line}

    def is_done(self, image: str, texts: Texts) -> bool:
        """Whether an image's captions are what this run wrote, or were edited since then."""
        before, after = self._images.get(image, (None, None))
        now = digest(*texts)
        return before is not None and (now == after or now != before)

    def has_kept(self, table: bytes) -> bool:
        """Whether this run kept the former table beside, and nobody else has changed it since then."""
        return sha256(table).hexdigest() in self._tables

    def note(self, changes: Mapping[str, Change], table: bytes | None) -> None:
        """Note what is going to be written.

        Args:
            changes: an image is done once its captions are others than before.
            table: the table with them, once the former one is kept beside.

        Raises:
            CaptionError: the folder cannot be written.
        """
        lines: list[dict[str, str]] = [] if self._begun else [{"run": self._run}]
        for image, (before, after) in changes.items():
            lines.append({"image": image, "before": digest(*before), "after": digest(*after)})
        if table is not None:
            lines.append({"table": sha256(table).hexdigest()})
        text = "".join(f"\n{json.dumps(line)}" for line in lines)  # not at its end: the last one may be half a line
        try:
            with self._path.open("ab" if self._begun else "wb") as file:
                file.write(text.encode())
        except OSError as error:
            raise CaptionError(
                f"{self._path}: cannot be written: {error.strerror}", "Check the folder's permissions."
            ) from None
        self._begun = True

    def end(self) -> None:
        """The run has come to its end; another one's file stays."""
        if self._begun:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, str]]:
    """The lines that are whole."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # killed in mid-line
            continue
    return [line for line in found if isinstance(line, dict)]
