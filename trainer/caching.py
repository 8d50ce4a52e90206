"""The command ``cache``: a data set encoded ahead of its run, or a part of it where several machines share the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import planning
from .cache import Cache
from .config import TrainConfig
from .errors import ConfigError, UserError
from .events import Event, Phase, Sink


@dataclass(frozen=True)
class Filled:
    """What was done, and what is left.

    Args:
        folder: the cache.
        pictures: that were encoded now.
        captions: the same.
        seconds: that this took.
        missing: entries of the whole data set that are not there yet.
    """

    folder: Path
    pictures: int
    captions: int
    seconds: float
    missing: int

    def __str__(self) -> str:
        """For people."""
        each = f", {self.pictures / self.seconds:.1f} pictures a second" if self.pictures else ""
        left = f"{self.missing} entries are still missing" if self.missing else "it holds all that the run will read"
        done = f"{self.pictures} pictures and {self.captions} captions encoded in {self.seconds:.0f} s{each}"
        return f"{done}\n{self.folder}: {left}"


def fill(config: TrainConfig, sink: Sink, stop: Callable[[], bool], shard: tuple[int, int] = (1, 1)) -> Filled:
    """Encodes what the cache lacks for a config's run.

    Args:
        config: of images.
        sink: takes events.
        stop: polled between two encodings.
        shard: which part, from 1, of how many. Every machine with the same data set and base has the same parts.

    Raises:
        UserError: config, dataset or base model cannot be used.
        CacheError: an encoding is not finite, or cannot be written.
        StoppedWhilePreparing: ``stop`` said so; what was encoded stays.
    """
    config = config.resolved()
    if config.text:
        raise ConfigError(["task_type: texts are not encoded ahead; expected a config of images"])
    counts = {"encoding images": 0, "encoding captions": 0}

    def count(event: Event) -> None:
        if isinstance(event, Phase) and event.name in counts:
            counts[event.name] = event.total  # all, or ``StoppedWhilePreparing``
        sink(event)

    number, of = shard
    planned = planning.images(config, sink, sink, stop, slice(number - 1, None, of))
    begun = time.monotonic()
    planned.fill(planned.job, count)
    seconds = time.monotonic() - begun
    cache = Cache(planned.job.cache_dir)
    missing = sum(not cache.has(kind, key) for kind, key in planned.job.cache_entries())
    return Filled(cache.folder, counts["encoding images"], counts["encoding captions"], seconds, missing)


def shard(text: str) -> tuple[int, int]:
    """``2/4`` as (2, 4).

    Raises:
        UserError: it is no such thing.
    """
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(f"--shard {text}: expected the number of a part and how many there are, such as 2/4")
    return int(number), int(of)
