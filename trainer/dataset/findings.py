"""What ``lint`` finds: its kinds, and how one is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .items import ImageItem, Problem

#: What is found beside the problems of the scan (``items.KINDS``).
FINDINGS = {
    "few-images": "fewer images than the guide advises",
    "many-images": "more images than the guide advises",
    "small": "images with fewer pixels than a square of the resolution",
    "cropped": "images of which the crop takes much away",
    "near-duplicate": "images that look alike",
    "same-caption": "many images with one caption",
    "repeated-caption": "captions that several images share",
    "trigger-word": "captions without the word that the others begin with",
    "mixed-captions": "tags at some images, sentences at others",
    "weights": "captions with the weights of a prompt",
    "brackets": "captions with brackets, which are weights in a prompt",
    "long-caption": "captions that are longer than what CLIP takes at once",
    "left-right": "captions that speak of left or right, which a flip makes wrong",
}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: a key of ``FINDINGS``, or of ``items.KINDS``.
        message: one line.
        lines: what it is about, a line a file or a pair.
        names: the files, by name, that it is said of.
    """

    kind: str
    message: str
    lines: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=(), compare=False)  # not said, but for whoever shows it at the files

    def __str__(self) -> str:
        shown = [f"    {line}" for line in self.lines[:_SHOWN]]
        more = [f"    and {len(self.lines) - _SHOWN} more"] if len(self.lines) > _SHOWN else []
        return "\n".join([f"- {self.kind}: {self.message}", *shown, *more])


def of_problems(problems: Sequence[Problem], kinds: Mapping[str, str]) -> list[Finding]:
    """What a scan has found, together by kind; what is said of all files of a kind, is said once.

    Args:
        problems: of the scan.
        kinds: what each kind of them means.
    """
    grouped: dict[str, list[Problem]] = {}
    for problem in problems:
        grouped.setdefault(problem.kind, []).append(problem)
    found: list[Finding] = []
    for kind, those in grouped.items():
        if len(those) > 1 and len({problem.message for problem in those}) == 1:
            lines = tuple(problem.name for problem in those)
            found.append(Finding(kind, f"{len(those)} x {those[0].message}", lines, lines))
        else:
            names = tuple(problem.name for problem in those)
            found.append(Finding(kind, f"{len(those)} x {kinds[kind]}", tuple(map(str, those)), names))
    return found


def names_of(items: Iterable[ImageItem]) -> tuple[str, ...]:
    """The names of images."""
    return tuple(item.name for item in items)


def counted(count: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
