"""What a run needs of the memory, what it may give up where that is too much, and in which order.

Given up is what costs least first: time before exactness, and never what the user has chosen for the result
(resolution, rank, targets), which is only advised. SDPA (attention that keeps no matrix of all pairs) is on in any
case, and encoders are off the card while it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from .config import TrainConfig
from .errors import OutOfMemoryError
from .files import read_json, write_json
from .gauge import GB

Weights = Literal["plain", "int8", "fp8", "nf4"]

_FILE = "memory.json"
# What torch, CUDA's libraries and the system say when memory is out, in errors that are not of torch's own type.
_SAYINGS = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
KEPT = 0.25  # of the activations with checkpointing, at least; the guide says about half
SIXTEEN_BITS = 0.5  # of what 32 take; the guide says 40 % less in all
HELD = {"plain": 1.0, "int8": 0.52, "fp8": 0.5, "nf4": 0.3}  # of the base model in 16 bits; measured of SDXL
PAGED = 0.15  # of the base model is on the card at once
IN_RAM = 0.5  # of the activations with checkpointing is what is kept between blocks


@dataclass(frozen=True)
class Savings:
    """What a run does to fit, from the least to the most costly.

    Args:
        half: the base model, and what is computed, in 16 bits.
        batch: images in a micro-batch; the window stays, so fewer of them are more often accumulated.
        checkpointing: activations are computed again in backward.
        base: how the frozen weights are held.
        activations_in_ram: what checkpointing keeps is kept in RAM.
        paged: the frozen weights are in RAM, and on the card a few blocks at a time.
        launched: kernels are launched one by one: no recording of a step keeps its memory.
    """

    half: bool
    batch: int
    checkpointing: bool
    base: Weights = "plain"
    activations_in_ram: bool = False
    paged: bool = False
    launched: bool = False


@dataclass(frozen=True)
class Possible:
    """What could be given up at all, on a device and of a base model; named as in ``Savings``."""

    half: bool = False
    int8: bool = False
    nf4: bool = False
    activations_in_ram: bool = False
    paged: bool = False
    launched: bool = False


def next(savings: Savings, possible: Possible) -> Savings | None:
    """The same with the next thing given up; None if there is nothing left."""
    if not savings.launched and possible.launched:
        return replace(savings, launched=True)
    if not savings.half and possible.half:
        return replace(savings, half=True)
    if savings.batch > 1:
        return replace(savings, batch=(savings.batch + 1) // 2)
    if not savings.checkpointing:
        return replace(savings, checkpointing=True)
    if savings.base == "plain" and possible.int8:  # as small as fp8, and four times as near
        return replace(savings, base="int8")
    if not savings.activations_in_ram and possible.activations_in_ram:
        return replace(savings, activations_in_ram=True)
    if not savings.paged and possible.paged:
        return replace(savings, paged=True)
    if savings.base != "nf4" and possible.nf4:
        return replace(savings, base="nf4")
    return None


def ladder(savings: Savings, possible: Possible) -> Iterator[Savings]:
    """All that could come after, in order."""
    while (further := next(savings, possible)) is not None:
        yield (savings := further)


@dataclass(frozen=True)
class Plan:
    """What a run will need, in bytes.

    Args:
        process: what is there beside: on a CPU Python and torch.
        base: the frozen weights.
        adapter: the trained ones, their gradients, the optimizer's state, the average.
        activations: of the largest micro-batch, forward and backward.
        samples: of a sample, or of a validation; not at the same time as the activations, but where these are ``kept``.
        free: what there is for all of it.
        kept: whether a recording keeps the activations' memory.
    """

    process: int
    base: int
    adapter: int
    activations: int
    samples: int
    free: int
    kept: bool = False

    @property
    def total(self) -> int:
        """The peak."""
        both = self.activations + self.samples
        return self.process + self.base + self.adapter + (both if self.kept else max(self.activations, self.samples))

    @property
    def has_room(self) -> bool:
        """Whether a step may keep its memory, and a first one of another shape take as much beside it."""
        return self.process + self.base + self.adapter + 2 * self.activations + self.samples <= self.free

    @property
    def fits(self) -> bool:
        """Whether there is as much."""
        return self.total <= self.free

    def reckoned(self, now: Savings, then: Savings) -> Plan:
        """What it will be with other savings. They are shares that were measured elsewhere: a guide, not a law."""
        base, activations, samples = float(self.base), float(self.activations), float(self.samples)
        if then.half and not now.half:
            activations, samples = SIXTEEN_BITS * activations, SIXTEEN_BITS * samples
        activations *= then.batch / now.batch
        if then.checkpointing and not now.checkpointing:
            activations *= KEPT
        if then.activations_in_ram and not now.activations_in_ram:
            activations *= IN_RAM
        if (then.base, then.half) != (now.base, now.half):
            base *= _held(then) / _held(now)
        if then.paged and not now.paged:
            base *= PAGED
        elif now.paged and not then.paged:
            base /= PAGED
        return replace(self, base=int(base), activations=int(activations), samples=int(samples))


def enough(plan: Plan, savings: Savings, possible: Possible) -> Savings | None:
    """The first of what could be given up with which it should fit; the next one if none should. None: nothing left."""
    further = list(ladder(savings, possible))
    fitting = (one for one in further if plan.reckoned(savings, one).fits)
    return [*fitting, *further, None][0]


def lighter_base(savings: Savings, possible: Possible) -> Savings | None:
    """The first with which the base model itself takes less; None if there is none."""
    held = savings.half, savings.base, savings.paged
    return [*(s for s in ladder(savings, possible) if (s.half, s.base, s.paged) != held), None][0]


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory is out, of a card or of the system."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and says_so(str(error))


def says_so(message: str) -> bool:
    """Whether an error's message says that memory is out."""
    return any(saying in message.lower() for saying in _SAYINGS)


# --- in words

_COSTS: dict[str, Callable[[Savings, str], str]] = {
    "half": lambda to, name: f"the base model in {name} (half its memory)",
    "batch": lambda to, name: f"{to.batch} at a time, accumulated (the same result, a little slower)",
    "checkpointing": lambda to, name: "gradient checkpointing (the same result, a third slower)",
    "base": lambda to, name: f"the base model in {to.base} (half its memory or less; its weights are rounded)",
    "activations_in_ram": lambda to, name: "activations kept in RAM (the same result, slower)",
    "paged": lambda to, name: "the base model in RAM, block by block on the card (the same result, slower)",
    "launched": lambda to, name: "a step's kernels launched one by one (the same result, a little slower)",
}


def told(before: Savings, after: Savings, name: str) -> str:
    """What is given up, and what it costs; ``name`` is the number format of 16 bits here."""
    changed = [f.name for f in fields(Savings) if getattr(before, f.name) != getattr(after, f.name)]
    return ", ".join(_COSTS[field](after, name) for field in changed if getattr(after, field) is not False)


def described(savings: Savings, precision: str) -> str:
    """Savings as they are, such as ``bf16, 2 at a time, checkpointing``."""
    parts = [precision if savings.base == "plain" else f"{precision} on a base in {savings.base}"]
    parts.append(f"{savings.batch} at a time")
    parts += ["checkpointing"] * savings.checkpointing
    parts += ["activations in RAM"] * savings.activations_in_ram
    parts += ["base in RAM, by blocks"] * savings.paged
    return ", ".join(parts)


def switches(plan: Plan, savings: Savings, possible: Possible) -> dict[str, int]:
    """What each thing that could be given up would save by itself, in bytes, by our reckoning."""
    alone: dict[str, Savings] = {}
    if possible.half and not savings.half:
        alone["mixed_precision: fp16"] = replace(savings, half=True)
    if savings.batch > 1:
        alone["batch_size: 1"] = replace(savings, batch=1)
    if not savings.checkpointing:
        alone["gradient_checkpointing: true"] = replace(savings, checkpointing=True)
    for kind, can in (("int8", possible.int8), ("nf4", possible.nf4)):
        if can and savings.base == "plain":
            alone[f"base_weights: {kind}"] = replace(savings, base=kind)
    if possible.paged and not savings.paged:
        alone["the base model in RAM"] = replace(savings, paged=True)
    return {name: max(0, plan.total - plan.reckoned(savings, then).total) for name, then in alone.items()}


def advised(plan: Plan, config: TrainConfig) -> dict[str, int]:
    """What only the user may change, and what it would save, in bytes."""
    found = {}
    smaller = max(64, (config.resolution * 3 // 4) // 64 * 64)
    if config.text:  # the longest text may be shorter than that: then it saves nothing
        found[f"max_length: {config.max_length // 2}"] = max(plan.activations, plan.samples) // 2
    elif smaller < config.resolution:
        share = 1 - (smaller / config.resolution) ** 2
        found[f"resolution: {smaller}"] = int(share * max(plan.activations, plan.samples))
    if config.lora_rank > 1:
        half = config.lora_rank // 2
        found[f"lora_rank: {half}"] = int((1 - half / config.lora_rank) * plan.adapter)
    return found


def exhausted(doing: str, plan: Plan | None, config: TrainConfig, device: str) -> OutOfMemoryError:
    """The error when there is nothing left to give up."""
    size = f"max_length than {config.max_length}" if config.text else f"resolution than {config.resolution}"
    figures, changes = "", f"a lower {size}, or lora_rank than {config.lora_rank}"
    if plan is not None:
        figures = f": it needs {plan.total / GB:.1f} GB ({parts(plan)}), and there are {plan.free / GB:.1f}"
        changes = saving(advised(plan, config))
    return OutOfMemoryError(
        f"out of memory while {doing}, with everything given up that can be{figures}",
        f"close whatever else uses {device}; then what only you may change: {changes}",
    )


GUIDE = {"mixed_precision: fp16": "about 40 %", "gradient_checkpointing: true": "about 50 %"}
"""Of the whole, what the guide says of them."""


def saving(found: Mapping[str, int]) -> str:
    """What changes would save, in words."""
    told = (
        f"{name} {size / GB:.1f} GB" + (f" (the guide: {GUIDE[name]})" if name in GUIDE else "")
        for name, size in found.items()
    )
    return ", ".join(told)


def parts(plan: Plan) -> str:
    """The parts of a plan in words."""
    named = {"base": plan.base, "adapter": plan.adapter, "activations": plan.activations, "samples": plan.samples}
    listed = [f"{name} {size / GB:.1f}" for name, size in named.items()]
    return ", ".join([*listed, *[f"the process {plan.process / GB:.1f}"] * (plan.process >= GB // 20)])


# --- remembered


def remember(run: Path, savings: Savings, since: Mapping[str, Any]) -> None:
    """Writes down what a run came to, and from which settings, so that it need not run out again when it goes on."""
    write_json(run / _FILE, {"savings": asdict(savings), "of": dict(since)})


def remembered(run: Path, since: Mapping[str, Any]) -> Savings | None:
    """What a run came to; None if it gave nothing up, or if it is to go on with other settings."""
    found = read_json(run / _FILE)
    if found.get("of") != dict(since):
        return None
    try:
        return Savings(**found["savings"])
    except (KeyError, TypeError):  # of another version
        return None


def _held(savings: Savings) -> float:
    """The base model's share of what it takes in 16 bits. In few bits it takes the same, whatever it is computed in."""
    return HELD[savings.base] * (2 if savings.base == "plain" and not savings.half else 1)
