"""The trigger word alone as caption of every image."""

from __future__ import annotations

from pathlib import Path

from ..errors import CaptionError
from .base import Wish
from .plain import Plain


def _trigger_word(path: Path, wish: Wish) -> str:
    if not wish.trigger_word.strip():
        raise CaptionError(
            "trigger_word: is empty, and the method 'trigger' writes nothing else",
            "Give a trigger word, such as the style's name, or choose another method.",
        )
    return wish.trigger_word.strip()


CAPTIONER = Plain("trigger", "The trigger word, alone.", _trigger_word)
