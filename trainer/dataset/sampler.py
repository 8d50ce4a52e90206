"""The order of a run: every epoch a list of windows, every window one optimizer step.

A window holds samples of one bucket; micro-batches slice it. So batch 4 x 1, 2 x 2 and 1 x 4 see the same windows,
and with them the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from .. import draws
from ..job import Item, TextItem


@dataclass(frozen=True)
class Presentation:
    """One showing of an image or a text: which of its ``repeats`` this is."""

    item: Any
    repeat: int

    @property
    def key(self) -> str:
        """Names the draws of this showing within an epoch."""
        return f"{self.item.id}#{self.repeat}"


Window = tuple[Presentation, ...]
Items = Sequence[Item] | Sequence[TextItem]


def micro_batches(window: Window, size: int, rank: int = 0, world: int = 1) -> list[Window]:
    """One rank's share of a window, in slices of at most ``size``.

    Every rank slices the same windows, so together they see what one process with ``world`` times the batch would.
    """
    mine = window[rank::world]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def windows_per_epoch(items: Items, size: int) -> int:
    """Optimizer steps in an epoch: no bucket is dropped, a last window of a bucket may be short."""
    counts: dict[tuple[int, int], int] = {}
    for item in items:
        counts[item.bucket] = counts.get(item.bucket, 0) + item.repeats
    return sum(ceil(count / size) for count in counts.values())


def windows(items: Items, *, seed: int, epoch: int, size: int) -> list[Window]:
    """All windows of an epoch, in order.

    Args:
        items: the images, or texts, that are trained on.
        seed: the run's seed.
        epoch: counted from 0.
        size: samples in a window (the effective batch).
    """
    buckets: dict[tuple[int, int], list[Presentation]] = {}
    for item in items:
        buckets.setdefault(item.bucket, []).extend(Presentation(item, r) for r in range(item.repeats))
    result: list[Window] = []
    for shown in buckets.values():
        shown.sort(key=lambda p: draws.uniform(seed, epoch, p.key, "order"))
        result += [tuple(shown[i : i + size]) for i in range(0, len(shown), size)]
    result.sort(key=lambda window: draws.uniform(seed, epoch, window[0].key, "window"))
    return result
