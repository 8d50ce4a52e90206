"""Captions from the folder's name: all images of ``10_red house`` are "red house"."""

from __future__ import annotations

from ..dataset.words import words_of
from .plain import Plain

CAPTIONER = Plain(
    "folder",
    "The words of the folder's name: every image in '10_red house' is 'red house'.",
    lambda path, wish: words_of(path.parent.name),
)
