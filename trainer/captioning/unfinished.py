"""What a run that replaces captions has done so far, so that after a stop the next one goes on.

Where captions are missing, the files themselves tell what is still to do. Where all are replaced or added to, they do
not: a hidden file beside them says which are new, until the run has come to its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import CaptionError
from ..files import digest
from .table import Texts

NAME = ".captions-unfinished.jsonl"


class Unfinished:
    """The file of a run that may be stopped.

    Args:
        folder: where captions are written.
        run: names what is asked; another run's file is no use.

    Attributes:
        kept: whether the table was kept beside already.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._path, self._run = folder / NAME, run
        head, *lines = _read(self._path) or [{}]
        mine = head.get("run") == run
        self._begun = mine
        self.kept = mine and any("kept" in line for line in lines)
        self._done = {line["image"]: line["captions"] for line in lines if "image" in line} if mine else {}

    def is_done(self, image: str, texts: Texts) -> bool:
        """Whether an image's captions are what this run wrote: what was edited since is not."""
        return self._done.get(image) == digest(*texts)

    def add(self, captions: Mapping[str, Texts]) -> None:
        """Note what is going to be written; an image is done once its captions are those.

        Raises:
            CaptionError: the folder cannot be written.
        """
        self._note({"image": image, "captions": digest(*texts)} for image, texts in captions.items())

    def keep(self) -> None:
        """Note that the table is kept beside."""
        if not self.kept:
            self.kept = True
            self._note([{"kept": True}])

    def end(self) -> None:
        """The run has come to its end."""
        self._path.unlink(missing_ok=True)

    def _note(self, lines: Iterable[dict[str, object]]) -> None:
        found = list(lines) if self._begun else [{"run": self._run}, *lines]
        text = "".join(f"\n{json.dumps(line)}" for line in found)  # not at its end: the last one may be half a line
        try:
            with self._path.open("ab" if self._begun else "wb") as file:
                file.write(text.encode())
        except OSError as error:
            raise CaptionError(
                f"{self._path}: cannot be written: {error.strerror}", "Check the folder's permissions."
            ) from None
        self._begun = True


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
