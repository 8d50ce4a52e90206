"""What it costs to write captions as they come: ``python benchmarks/captions.py``.

A captioner that says something at once, for folders of several sizes; the table is written anew for each batch. What
is measured is all that is not the captioner: listing the folder, the table, the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.captioning import label
from trainer.captioning.base import Place, Wish
from trainer.events import Captioned, Event

CAPTION = (
    "a watercolour of a small house with a red roof beside a river, two trees behind it, morning light, mist, " * 2
)


@dataclass
class Quick:
    """A captioner that does not look."""

    batch: int
    name: str = "quick"
    description: str = "The same of each."
    looks: bool = False
    models: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @contextmanager
    def open(self, wish: Wish, place: Place) -> Iterator[Quick]:
        """See ``Captioner``."""
        yield self

    def knows(self, folder: Path) -> bool:
        """See ``Captioner``."""
        return False

    def caption(self, paths: Sequence[Path], pictures: Sequence[Any]) -> list[str]:
        """See ``Session``."""
        return [f"{CAPTION}{path.stem}" for path in paths]


def measure(count: int, batch: int, most: int, mode: str) -> tuple[float, float, float]:
    """Seconds before the first batch; seconds a batch at its end; the table's size in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            (folder / f"{number:06d}.png").touch()
        # All but the last few are there, as towards the end of a long captioning.
        with (folder / "metadata.csv").open("w", encoding="utf-8") as table:
            table.write("filename,prompt\n")
            table.writelines(f'{number:06d}.png,"{CAPTION}"\n' for number in range(count - most))
        began = time.monotonic()
        times: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, Captioned):
                times.append(time.monotonic())

        label(folder, method=Quick(batch), emit=note, mode=mode, stop=lambda: len(times) * batch >= most)
        size = (folder / "metadata.csv").stat().st_size / 1e6
        return times[0] - began, (times[-1] - times[0]) / (len(times) - 1), size


def main() -> None:
    """Print the table of docs/measurements.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 1_000, 10_000, 50_000])
    args = parser.parse_args()
    print("| Images | Mode | Table | Before the first | A batch, written |\n|---|---|---|---|---|")
    for count in args.counts:
        for mode in ("missing", "all"):
            first, each, size = measure(count, 1, 50, mode)
            print(f"| {count:,} | {mode} | {size:.1f} MB | {first:.2f} s | {1000 * each:.1f} ms |")


if __name__ == "__main__":
    main()
