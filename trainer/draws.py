"""Every random draw of a run, as a pure function of (seed, epoch, sample, name).

Nothing here touches a global generator, so exact resume, halved batches, several processes and a warm cache give the
same numbers without anything being arranged for it.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *parts: object) -> torch.Generator:
    """A CPU generator for one draw, seeded by what it is for."""
    text = "|".join(map(str, (seed, *parts)))
    value = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")
    return torch.Generator().manual_seed(value & (2**63 - 1))


def uniform(seed: int, *parts: object) -> float:
    """A number in [0, 1)."""
    text = "|".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:7], "little") / 2**56


def integer(limit: int, seed: int, *parts: object) -> int:
    """A whole number in [0, limit)."""
    return int(uniform(seed, *parts) * limit)


def normal(shape: tuple[int, ...], seed: int, *parts: object) -> torch.Tensor:
    """Standard normal numbers, fp32 on the CPU."""
    return torch.randn(shape, generator=generator(seed, *parts))
