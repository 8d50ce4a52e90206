"""Where a process stands among those that were started together, as ``accelerate launch`` and ``torchrun`` say it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True)
class Launched:
    """One process of several.

    Args:
        rank: its number among all, from 0.
        world: how many there are.
        local_rank: its number among those of its machine.
        local_world: how many its machine has.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

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
        place = Launched(
            rank, world, int(found.get("LOCAL_RANK", rank)), int(found.get("LOCAL_WORLD_SIZE", max(1, world)))
        )
    except ValueError:
        place = Launched(-1)
    if not (0 <= place.rank < place.world and 0 <= place.local_rank < place.local_world <= place.world):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        told = ", ".join(f"{name}={found[name]}" for name in names if name in found)
        raise ConfigError(
            [f"{told}: expected numbers of ranks, as accelerate launch and torchrun set them"], "the environment"
        )
    return place
