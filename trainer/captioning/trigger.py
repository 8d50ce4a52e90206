"""The trigger word alone as caption of every image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import CaptionError


class _TriggerWord:
    name = "trigger"
    description = "The trigger word, alone."

    def caption(self, images: Sequence[Path], *, trigger_word: str) -> list[str]:
        """See ``Captioner``.

        Raises:
            CaptionError: the trigger word is empty.
        """
        if not trigger_word.strip():
            raise CaptionError(
                "trigger_word: is empty, and the method 'trigger' writes nothing else",
                "Give a trigger word, such as the style's name, or choose another method.",
            )
        return [trigger_word.strip()] * len(images)


CAPTIONER = _TriggerWord()
