"""A captioner for tests, slow enough to be stopped; as a program, a captioning that is stopped again and again.

The program forks, so that a stop costs no second: what is killed is a process that runs the command line.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainer.captioning.base import Place, Wish


@dataclass
class Slow:
    """Says the colour of a picture's first pixel, and notes in a file what it has said.

    Args:
        log: gets a line for each picture.
        seconds: that a picture takes.
        batch: pictures at a time.
        models: as if it had one.
    """

    log: Path
    seconds: float = 0.0
    batch: int = 1
    models: tuple[str, ...] = ()
    name: str = "slow"
    description: str = "The colour of the first pixel."
    looks: bool = True
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ("purpose", "prompt", "length", "tagging")
    opened: tuple[Wish, Place] | None = None

    @contextmanager
    def open(self, wish: Wish, place: Place) -> Iterator[Slow]:
        """See ``Captioner``."""
        self.opened = wish, place
        self.batch = place.batch or self.batch
        yield self

    def knows(self, folder: Path) -> bool:
        """See ``Captioner``."""
        return (folder / "slow.json").is_file()

    def caption(self, paths: Sequence[Path], pictures: Sequence[Image]) -> list[str]:
        """See ``Session``."""
        time.sleep(self.seconds * len(paths))
        with self.log.open("a", encoding="utf-8") as file:
            file.write("".join(f"{path.name}\n" for path in paths))
        return [colour(picture) for picture in pictures]


def colour(picture: Image) -> str:
    """What ``Slow`` says."""
    return "rgb {} {} {}".format(*picture.getpixel((0, 0)))  # type: ignore[misc]


def said(log: Path) -> list[str]:
    """The pictures that a ``Slow`` was asked for."""
    return log.read_text("utf-8").splitlines() if log.exists() else []


def main(folder: Path, log: Path, stops: int, seed: int, arguments: list[str]) -> int:
    """Stop the command ``stops`` times at random, then let it come to its end; its exit code.

    Every stop comes at a moment of its own within the captions that are left; every second one is a Ctrl-C.
    """
    from trainer.__main__ import main as command
    from trainer.captioning.registry import all_captioners

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
    chance = random.Random(seed)
    total = len(list(folder.glob("*.png")))
    # Of few pictures each takes so long that none is left out by a stop that comes late.
    all_captioners()["slow"] = Slow(log, seconds=0.001 if total > 100 else 0.01)
    for number in range(stops):
        before = len(said(log))
        enough = before + chance.randint(1, max(1, 2 * (total - before) // (stops - number + 1)))
        child = os.fork()
        if child == 0:
            os._exit(command(["caption", "--input", str(folder), "--method", "slow", *arguments]))
        while len(said(log)) < min(enough, total - stops + number) and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.004)
        os.kill(child, signal.SIGKILL if number % 2 else signal.SIGINT)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        print(f"stop {number}: {len(said(log)) - before} more, ended with {ended}", file=sys.stderr)
        if ended not in (-signal.SIGKILL, 130):
            return 1
    return command(["caption", "--input", str(folder), "--method", "slow", *arguments])


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]))
