"""What captioners without a model have in common: they say something of a path, and never look at the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .base import Place, Session, Wish

if TYPE_CHECKING:
    from PIL.Image import Image

MANY = 1000


@dataclass(frozen=True)
class Plain:
    """A captioner of names.

    Args:
        name: of the captioner.
        description: one line for the user.
        say: a path, and what is asked -> the caption.
    """

    name: str
    description: str
    say: Callable[[Path, Wish], str]
    looks: bool = False
    models: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @contextmanager
    def open(self, wish: Wish, place: Place) -> Iterator[Session]:
        """See ``Captioner``."""
        yield _Session(self.say, wish)

    def knows(self, folder: Path) -> bool:
        """No model is."""
        return False


@dataclass(frozen=True)
class _Session:
    say: Callable[[Path, Wish], str]
    wish: Wish
    batch: int = MANY

    def caption(self, paths: Sequence[Path], pictures: Sequence[Image]) -> list[str]:
        return [self.say(path, self.wish) for path in paths]
