"""What a data set of images is, and what might be better about it.

``lint`` is for every caller; its report is data. Nothing that it finds keeps a data set from being trained: what does
is an error of ``scan``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .caption_lint import of_captions
from .crops import by_bucket, lost
from .findings import Finding, counted, names_of, of_problems
from .items import KINDS, Dataset, ImageItem
from .near import near_duplicates

#: The guide's advice, in images of one theme.
FEW, MANY = 50, 200
#: A crop that takes away more than this part of a picture is named.
MUCH = 0.2


@dataclass(frozen=True, slots=True)
class Subset:
    """One folder: its name below the dataset's (``""`` for that itself), its images, and how often each is seen."""

    name: str
    images: int
    repeats: int


@dataclass(frozen=True)
class Report:
    """A data set as it will be trained.

    Attributes:
        root: its folder.
        resolution: side of a square bucket, in pixels.
        images: how many are trained.
        showings: presentations in an epoch.
        captioned: images that have a caption of their own.
        alternatives: images with several captions.
        masked: images with a mask.
        smallest: (width, height) of the image with the fewest pixels.
        largest: of the one with the most.
        subsets: its folders.
        buckets: (width, height) and images of each bucket, the fullest first.
        findings: what might be better.
    """

    root: Path
    resolution: int
    images: int
    showings: int
    captioned: int
    alternatives: int
    masked: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    subsets: tuple[Subset, ...]
    buckets: tuple[tuple[tuple[int, int], int], ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [
            self.root.as_posix(),
            f"{counted(self.images, 'image')}, {counted(self.showings, 'showing')} an epoch",
            f"captions: {self.captioned} of {self.images}"
            + (f", {self.alternatives} with alternatives" if self.alternatives else "")
            + (f"; masks: {self.masked}" if self.masked else ""),
            f"sizes: {_size(self.smallest)} to {_size(self.largest)} pixels; resolution {self.resolution}",
        ]
        if any(subset.name for subset in self.subsets):
            lines.append("folders:")
            width = max(len(subset.name or "(itself)") for subset in self.subsets)
            for subset in self.subsets:
                times = f" x {subset.repeats}" if subset.repeats > 1 else ""
                lines.append(f"    {subset.name or '(itself)':<{width}}  {counted(subset.images, 'image')}{times}")
        lines.append("buckets:")
        lines += [f"    {_size(bucket):<9}  {counted(images, 'image')}" for bucket, images in self.buckets]
        return "\n".join([*lines, *map(str, self.findings)] if self.findings else [*lines, "nothing to complain of"])


def lint(
    dataset: Dataset,
    *,
    resolution: int = 512,
    flip: bool = False,
    alike: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Looks at a scanned data set.

    Every picture is decoded once more, in small, to find those that look alike.

    Args:
        dataset: as ``scan`` gave it.
        resolution: what it was scanned with.
        flip: whether it will be trained with flips.
        alike: whether pictures that look alike are looked for; nothing is decoded otherwise.
        on_progress: called with (images done, images in all).
    """
    items = dataset.items
    if dataset.captions == "none":
        without = {item.path for item in items}
    else:
        without = {problem.path for problem in dataset.problems if problem.kind == "no-caption"}
    area = [item.size[0] * item.size[1] for item in items]
    counts = Counter(item.subset for item in items)
    repeats = {item.subset: item.repeats for item in items}
    found = [
        *of_problems(dataset.problems, KINDS),
        *_amount(len(items)),
        *_sizes(items, resolution),
        *of_captions(dataset, [item for item in items if item.path not in without], flip=flip),
        *(_alike(items, on_progress) if alike else ()),
    ]
    return Report(
        root=dataset.root,
        resolution=resolution,
        images=len(items),
        showings=sum(item.repeats for item in items),
        captioned=len(items) - len(without),
        alternatives=sum(len(item.captions) > 1 for item in items),
        masked=sum(bool(item.mask) for item in items),
        smallest=items[area.index(min(area))].size,
        largest=items[area.index(max(area))].size,
        subsets=tuple(Subset(name, count, repeats[name]) for name, count in counts.items()),
        buckets=tuple((bucket, len(members)) for bucket, members in by_bucket(items).items()),
        findings=tuple(found),
    )


def _amount(images: int) -> list[Finding]:
    advice = f"{FEW} to {MANY} good pictures of one theme are advised"
    if images < FEW:
        return [Finding("few-images", f"{counted(images, 'image')}: {advice}; the fewer, the sooner it overfits")]
    if images > MANY:
        epochs = "at most 5" if images > 500 else "about 10"
        return [Finding("many-images", f"{images} images: {advice}; with more, {epochs} epochs are enough")]
    return []


def _sizes(items: Sequence[ImageItem], resolution: int) -> list[Finding]:
    found: list[Finding] = []
    small = [item for item in items if item.size[0] * item.size[1] < resolution**2]
    if small:
        lines = tuple(f"{item.name}: {_size(item.size)}, trained at {_size(item.bucket)}" for item in small)
        message = f"{len(small)} with fewer pixels than {resolution}x{resolution}; none is enlarged"
        found.append(Finding("small", message, lines, names_of(small)))
    cropped = sorted((item for item in items if lost(item) > MUCH), key=lost, reverse=True)
    if cropped:
        lines = tuple(f"{item.name}: {_size(item.size)}, {lost(item):.0%} of it" for item in cropped)
        message = f"{len(cropped)} of which the crop takes more than {MUCH:.0%} away"
        found.append(Finding("cropped", message, lines, names_of(cropped)))
    return found


def _alike(items: Sequence[ImageItem], on_progress: Callable[[int, int], None] | None) -> list[Finding]:
    pairs = near_duplicates(items, on_progress)
    if not pairs:
        return []
    lines = tuple(f"{items[one].name} and {items[other].name}" for one, other in pairs)
    names = names_of(items[index] for index in dict.fromkeys(index for pair in pairs for index in pair))
    return [Finding("near-duplicate", f"{counted(len(pairs), 'pair')} of images that look alike", lines, names)]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
