"""What a captioner is, and what may be asked of one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

Purpose = Literal["style", "character", "plain"]
Length = Literal["short", "medium", "long"]


@dataclass(frozen=True)
class Tagging:
    """What is asked of a tagger.

    Args:
        general: the least probability of a tag, 0 to 1.
        character: the least probability of a character's name.
        rating: whether the rating is a tag, too.
        underscores: ``long_hair`` instead of ``long hair``.
        exclude: tags that are never written, in either spelling.
        first: tags that stand first in every caption, seen or not.
    """

    general: float = 0.35
    character: float = 0.85
    rating: bool = False
    underscores: bool = False
    exclude: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What is asked of a captioner. Each takes of it what it knows.

    Args:
        trigger_word: as the user gave it; may be empty. ``label`` puts it in front of what is written.
        purpose: what the captions are for: what is described stays promptable, what is left out becomes part of the
            trigger word.
        prompt: the question that is put to a model that can be asked, instead of the purpose's.
        length: of what a model writes.
        tagging: for taggers.
    """

    trigger_word: str = ""
    purpose: Purpose = "plain"
    prompt: str = ""
    length: Length = "medium"
    tagging: Tagging = field(default_factory=Tagging)


@dataclass(frozen=True)
class Place:
    """Where a captioner works.

    Args:
        model: the model's folder or file; None for captioners without one.
        device: as torch names it.
        batch: pictures at a time; 0: as many as suit the device.
    """

    model: Path | None = None
    device: str = "cpu"
    batch: int = 0


class Session(Protocol):
    """A captioner at work."""

    @property
    def batch(self) -> int:
        """As many pictures as it wants at a time."""
        ...

    def caption(self, paths: Sequence[Path], pictures: Sequence[Image]) -> list[str]:
        """A caption for each picture, in their order; ``""`` where there is nothing to say.

        Args:
            paths: absolute.
            pictures: RGB, as trained: upright, on white where they are transparent. Empty for captioners that do not
                look (``looks``).

        Raises:
            CaptionError: captions cannot be made.
        """
        ...


class Captioner(Protocol):
    """Says what is in pictures. Adding one is adding a file with a module-level ``CAPTIONER`` to this folder.

    Heavy imports and models belong into ``open``: all captioners are imported for the list of their names.
    """

    @property
    def name(self) -> str:
        """What the user calls it; the file's name."""
        ...

    @property
    def description(self) -> str:
        """One line for the user."""
        ...

    @property
    def looks(self) -> bool:
        """Whether it needs the pictures, or only their names."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names on the hub, the usual one first; empty for captioners without a model."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages beside requirements.txt that it cannot do without, as pip calls them."""
        ...

    @property
    def takes(self) -> tuple[str, ...]:
        """The fields of ``Wish`` that it goes by, beside the trigger word: the page shows these alone."""
        ...

    def open(self, wish: Wish, place: Place) -> AbstractContextManager[Session]:
        """Gets ready (loads the model), and gives back all memory at the end.

        Raises:
            CaptionError: it cannot: something is missing, or the model is of another kind.
        """
        ...

    def knows(self, folder: Path) -> bool:
        """Whether a model's folder is one of its kind, told by its files; nothing is loaded."""
        ...
