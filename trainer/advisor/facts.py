"""What settings are chosen by: how many different pictures or texts there are, how large they are, what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ..dataset import ImageItem
from ..dataset.captions import with_trigger
from ..dataset.near import near_duplicates
from ..job import TextItem

MOST_COMPARED = 500
"""So many images are looked at for those that look alike: of more, a few that do change nothing."""


class Shown(Protocol):
    """An image of a data set or of a job."""

    @property
    def id(self) -> str:
        """Its content, with a mark where it is a duplicate."""
        ...

    @property
    def captions(self) -> tuple[str, ...]:
        """Its captions, the trigger word included."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        ...

    @property
    def repeats(self) -> int:
        """Presentations in an epoch."""
        ...


@dataclass(frozen=True)
class Facts:
    """A data set, as far as settings depend on it.

    Args:
        images: files.
        different: pictures that differ in content; those that look alike count as one.
        showings: presentations in an epoch.
        captioned: images with a caption of their own, beside the trigger word.
        captions: different captions among all images.
        sides: of each image the side of the square with its area, in pixels, ascending.
        what: ``picture``; of text, where images are samples, and captions answers, ``sample``.
        tokens: of each sample of text, ascending.
        counted: tokens that the loss is on, in all.
        lines: samples that are plain lines.
    """

    images: int
    different: int
    showings: int
    captioned: int
    captions: int
    sides: tuple[int, ...]
    what: str = "picture"
    tokens: tuple[int, ...] = ()
    counted: int = 0
    lines: int = 0

    @property
    def alike(self) -> int:
        """Images that add nothing new."""
        return self.images - self.different

    def smaller(self, resolution: int) -> int:
        """Images with fewer pixels than a square of that side."""
        return sum(side < resolution for side in self.sides)


def facts(items: Sequence[Shown], trigger_word: str = "", *, alike: bool = True) -> Facts:
    """The facts of a data set, or of the images of a job.

    Args:
        items: the images, without those for regularisation.
        trigger_word: as they were scanned with.
        alike: whether pictures that look alike are looked for, which decodes each once, in small; else only files of
            the same bytes count as one.
    """
    nothing = {("",), (with_trigger("", trigger_word),)}
    pictures = tuple(item for item in items if isinstance(item, ImageItem))
    if alike and len(pictures) == len(items) <= MOST_COMPARED:
        different = _different(pictures)
    else:
        different = len({item.id.partition("-")[0] for item in items})
    return Facts(
        images=len(items),
        different=different,
        showings=sum(item.repeats for item in items),
        captioned=sum(item.captions not in nothing for item in items),
        captions=len({item.captions for item in items}),
        sides=tuple(sorted(int((item.size[0] * item.size[1]) ** 0.5) for item in items)),
    )


def facts_of_texts(items: Sequence[TextItem]) -> Facts:
    """The facts of the texts of a job."""
    answers = {item.tokens[slice(*item.answers[-1])] for item in items}
    return Facts(
        images=len(items),
        different=len({item.tokens for item in items}),
        showings=sum(item.repeats for item in items),
        captioned=len(items),
        captions=len(answers),
        sides=(),
        what="sample",
        tokens=tuple(sorted(len(item.tokens) for item in items)),
        counted=sum(end - start for item in items for start, end in item.answers),
        lines=sum(item.answers == ((0, len(item.tokens)),) for item in items),
    )


@lru_cache(maxsize=8)
def _different(items: tuple[ImageItem, ...]) -> int:
    """How many pictures differ: what looks alike, be it in a chain, is one."""
    first = {item.content: item.content for item in items}

    def root(content: str) -> str:
        while first[content] != content:
            content = first[content]
        return content

    for one, other in near_duplicates(items):
        first[root(items[other].content)] = root(items[one].content)
    return sum(content == of for content, of in first.items())
