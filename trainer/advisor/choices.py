"""What becomes of every ``auto``: a value, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import figures
from ..config import TrainConfig
from ..figures import GIB
from ..peek import Peek
from . import rules
from .facts import Facts
from .words import count, shown

ROOM = 0.9
"""What is reckoned to be needed may take this much of what is free."""


_Chosen = tuple[dict[str, Any], str]


@dataclass(frozen=True)
class Choice:
    """A field that was ``auto``.

    Args:
        field: its name.
        value: what was chosen, as plain value.
        why: in words.
    """

    field: str
    value: Any
    why: str

    @property
    def told(self) -> tuple[str, str, str]:
        """Field, value and why, as texts."""
        return self.field, shown(self.value), self.why


@dataclass(frozen=True)
class Room:
    """Where a run will be.

    Args:
        device: such as ``cpu`` or ``cuda:0``.
        free: bytes that it may take; 0: not known.
    """

    device: str = "cpu"
    free: int = 0


def decide(config: TrainConfig, facts: Facts, base: Peek, room: Room) -> tuple[TrainConfig, tuple[Choice, ...]]:
    """Chooses what is ``auto``.

    How the effective batch is cut, and whether gradients are checkpointed, follows from the memory; nothing else does,
    so that a run stays the same on another card.

    Args:
        config: with its ``auto``.
        facts: of the data set.
        base: the base model.
        room: where it will be trained.

    Returns:
        The config without any ``auto``, and the choices.

    Raises:
        ConfigError: a value that is given does not go with one that follows.
    """
    wanted = set(config.auto)
    found: list[Choice] = []
    if config.text:
        wanted.discard("resolution")
        config = config.model_copy(update={"auto": tuple(field for field in config.auto if field != "resolution")})
    for fields, choose in _ORDER:
        if asked := [field for field in fields if field in wanted]:
            values, why = choose(config, facts, base, room, asked)
            config = config.but(**values)
            told = (why, *[f"see {asked[0]}"] * (len(asked) - 1))
            found += [Choice(field, values[field], said) for field, said in zip(asked, told, strict=True)]
    return config, tuple(found)


def _resolution(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    chosen = rules.resolution(facts.sides, base)
    own = base.side or rules.usual(base.family).side
    why = "as the base model draws" if chosen == own else f"half of the pictures have less than the base's {own}"
    return {"resolution": chosen}, why


def _rank(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    chosen = rules.rank(facts.different, config.class_prompt, base.family, config.text)
    if config.text:
        return {"lora_rank": chosen}, f"{_pictures(facts)}; 16 from {rules.TEXTS_FOR_16:,} on"
    why = f"{_pictures(facts)}; 16 from {rules.PICTURES_FOR_16} on"
    if chosen == 8 and facts.different >= rules.PICTURES_FOR_16:
        why = "class_prompt: it is no style, which might need 16"
    return {"lora_rank": chosen}, why


def _alpha(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    """What scales the change by 1."""
    if config.lora_method == "rslora":
        return {"lora_alpha": round(config.lora_rank**0.5, 2)}, "the root of the rank: it scales the change by 1"
    return {"lora_alpha": None}, "it scales the change by 1"


def _held_out(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    chosen = rules.held_out(facts.different)
    why = "overfitting is measured on them" if chosen else f"each {facts.what} is needed"
    return {"validation_images": chosen}, f"{why}; {_pictures(facts)}"


def _batch(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    """The effective batch by family and pictures; how it is cut, and checkpointing, by the memory."""
    batch, accumulation, checkpointing = "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"
    wish = rules.window(facts.different, base.family)
    cuts: list[dict[str, Any]] = [{}]
    if batch in asked and accumulation in asked:
        cuts = [{batch: size, accumulation: wish // size} for size in range(wish, 0, -1) if wish % size == 0]
    elif batch in asked:  # what is given stays, and the effective batch comes near to what it would be
        cuts = [{batch: max(1, round(wish / config.gradient_accumulation_steps))}]
    elif accumulation in asked:
        cuts = [{accumulation: max(1, round(wish / config.batch_size))}]
    switches = (False, True) if checkpointing in asked else (config.gradient_checkpointing,)
    # The quickest first: more of the batch at once saves little time, no checkpointing a quarter of it.
    ways = [{**cut, checkpointing: switch} for switch in switches for cut in cuts]
    needs = [_memory(config.model_copy(update=way), facts, base, room) for way in ways]
    fits = [number for number, need in enumerate(needs) if not room.free or need <= ROOM * room.free]
    best = fits[0] if fits else len(ways) - 1
    window = config.model_copy(update=ways[best]).window
    why = f"{window} in a step; about {needs[best] / GIB:.1f} GiB"
    if room.free:
        why += f" of the {room.free / GIB:.1f} that are free" + ("" if fits else ": it may not fit")
    return ways[best], why


def _memory(config: TrainConfig, facts: Facts, base: Peek, room: Room) -> float:
    """Bytes that a config is reckoned to need."""
    size = 4 if config.mixed_precision == "no" or room.device == "cpu" else 2
    if config.text:
        return figures.text_memory(config, max(facts.tokens, default=0), base, size)
    return figures.memory(config, config.resolution**2, base.family, base.parameters, size)


def _rate(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    family, chosen = rules.usual(base.family), {"learning_rate": rules.rate(config, base)}
    if config.optimizer == "prodigy":
        return chosen, "prodigy finds its rate by itself, and multiplies it with this"
    parts = [f"{shown(family.rate)} for {family.title} at an effective batch of {family.at}"]
    if config.text:
        parts = [f"{shown(rules.TEXT_RANGE[1])} for text"]
    elif config.window != family.at:
        parts.append(f"by the square root for {config.window}, at most {shown(rules.HIGHEST)}")
    if config.optimizer in rules.OPTIMIZERS:
        parts.append(f"times {rules.OPTIMIZERS[config.optimizer]:g} for {config.optimizer}")
    if (narrow := rules.width(base)) != 1:
        parts.append(f"times {1 / narrow:.2g} for a model of only {base.parameters / 1e6:.3g} million weights")
    if abs((by := rules.scale(config)) - 1) > 0.01:
        parts.append(f"the change is scaled by {by:.2g}")
    return chosen, "; ".join(parts)


def _epochs(config: TrainConfig, facts: Facts, base: Peek, room: Room, asked: list[str]) -> _Chosen:
    trained = max(1, facts.different - config.validation_images)
    showings = facts.showings * trained / max(1, facts.different)
    chosen = rules.epochs(trained, showings, config.text)
    told = f"{trained:,} different {facts.what}s, shown {round(chosen * showings):,} times in all"
    return {"epochs": chosen}, told


def _pictures(facts: Facts) -> str:
    different = count(facts.different, f"different {facts.what}")
    return f"{different} of {facts.images:,}" if facts.alike else different


_ORDER: tuple[tuple[tuple[str, ...], Callable[..., _Chosen]], ...] = (
    (("resolution",), _resolution),
    (("lora_rank",), _rank),
    (("lora_alpha",), _alpha),
    (("validation_images",), _held_out),
    (("batch_size", "gradient_accumulation_steps", "gradient_checkpointing"), _batch),
    (("learning_rate",), _rate),
    (("epochs",), _epochs),
)
"""Fields that are chosen together, and how; each sees what those before it chose."""
