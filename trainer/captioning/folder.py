"""Captions from the folder's name: all images of ``10_red house`` are "red house"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..dataset.words import words_of


class _FolderName:
    name = "folder"
    description = "The words of the folder's name: every image in '10_red house' is 'red house'."

    def caption(self, images: Sequence[Path], *, trigger_word: str) -> list[str]:
        """See ``Captioner``; a name without words gives empty captions."""
        return [words_of(path.parent.name) for path in images]


CAPTIONER = _FolderName()
