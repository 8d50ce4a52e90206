"""Where a process stands among those that were started together: by ``accelerate launch``, ``torchrun``, or here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

_MEETING = "DARKROOM_MEETING"
_LAST_WORDS = 20.0  # seconds that the others have to end
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Launched:
    """One process of several.

    Args:
        rank: its number among all, from 0.
        world: how many there are.
        local_rank: its number among those of its machine.
        local_world: how many its machine has.
        meeting: the file by which they find each other, if ``together`` has started them; else empty.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    meeting: str = ""

    @property
    def share(self) -> slice:
        """This process' part of what the processes of a machine do together."""
        return slice(self.local_rank, None, self.local_world)


def launched() -> Launched:
    """Where this process stands; alone where nothing is said. Without LOCAL_RANK all are on one machine.

    Raises:
        ConfigError: the environment makes no sense.
    """
    found = os.environ
    if found.get("WORLD_SIZE", "1") == "1":
        return Launched()
    try:
        rank, world = int(found.get("RANK", "0")), int(found["WORLD_SIZE"])
        local, beside = int(found.get("LOCAL_RANK", rank)), int(found.get("LOCAL_WORLD_SIZE", max(1, world)))
        place = Launched(rank, world, local, beside, found.get(_MEETING, ""))
    except ValueError:
        place = Launched(-1)
    if not (0 <= place.rank < place.world and 0 <= place.local_rank < place.local_world <= place.world):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        told = ", ".join(f"{name}={found[name]}" for name in names if name in found)
        raise ConfigError(
            [f"{told}: expected numbers of ranks, as accelerate launch and torchrun set them"], "the environment"
        )
    return place


@contextmanager
def together(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Makes this process the first of several on this machine, and starts the others, which do the same command.

    They see that this one has gone by the end of the pipe on their stdin, and by their connections.

    Args:
        count: of processes.
        arguments: of ``python -m trainer``.
    """
    folder = Path(tempfile.mkdtemp(prefix="lora-darkroom-"))
    own = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), _MEETING: (folder / "meeting").as_posix()}
    if sys.platform == "linux":
        own["GLOO_SOCKET_IFNAME"] = "lo"  # nobody on the network need hear them
    before = {name: os.environ.get(name) for name in (*own, "RANK", "LOCAL_RANK")}
    # As a file: the working directory may be any, and portable builds ignore it.
    command = [sys.executable, str(Path(__file__).resolve().parents[1] / "train.py"), *arguments[1:]]
    try:
        for rank in range(1, count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            _started.append(subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **own, **place}))
        os.environ.update({**own, "RANK": "0", "LOCAL_RANK": "0"})
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _end()
        shutil.rmtree(folder, ignore_errors=True)


def missing() -> list[int]:
    """The ranks of the processes that this one has started and that have ended."""
    return [rank for rank, process in enumerate(_started, 1) if process.poll() is not None]


def _end() -> None:
    for process in _started:
        assert process.stdin is not None
        process.stdin.close()
    until = time.monotonic() + _LAST_WORDS
    for process in _started:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _started.clear()
