"""Captions from file names: ``red_house-01.png`` is "red house"; a name without words (IMG_2041) says nothing."""

from __future__ import annotations

from ..dataset.words import words_of
from .plain import Plain

CAPTIONER = Plain(
    "filename",
    "The words of the file's name: red_house-01.png is 'red house'.",
    lambda path, wish: words_of(path.stem),
)
