"""What a captioner is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Captioner(Protocol):
    """Says what is in pictures. Adding one is adding a file with a module-level ``CAPTIONER`` to this folder.

    Heavy imports and models belong into ``caption``: all captioners are imported for the list of their names.

    Attributes:
        name: what the user calls it; the file's name.
        description: one line for the user.
    """

    name: str
    description: str

    def caption(self, images: Sequence[Path], *, trigger_word: str) -> list[str]:
        """A caption for each image, in their order; ``""`` where there is nothing to say.

        The trigger word need not be put in front: ``label`` does it.

        Args:
            images: absolute paths.
            trigger_word: as the user gave it; may be empty.

        Raises:
            CaptionError: captions cannot be made, such as for a missing model.
        """
        ...
