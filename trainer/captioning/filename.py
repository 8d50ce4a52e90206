"""Captions from file names: ``red_house-01.png`` is "red house"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..dataset.words import words_of


class _FileName:
    name = "filename"
    description = "The words of the file's name: red_house-01.png is 'red house'."

    def caption(self, images: Sequence[Path], *, trigger_word: str) -> list[str]:
        """See ``Captioner``; a name without words (IMG_2041) gives an empty caption."""
        return [words_of(path.stem) for path in images]


CAPTIONER = _FileName()
