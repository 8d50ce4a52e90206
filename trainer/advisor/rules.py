"""The numbers that settings are chosen by, and judged by, with their sources. Pure functions; nothing is measured here.

The guide is the one that this program's fields and defaults follow; docs/training.md has its table. What it leaves open
for few pictures, and for SDXL, is what other trainers and their users agree on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt

from ..config import TrainConfig
from ..figures import BASES
from ..peek import Peek

LENGTHS = ((20, 1500), (50, 1000), (100, 1500), (200, 2000), (500, 5000), (600, 3000), (1000, 5000))
"""Different pictures, and how often pictures are shown in all; straight lines between, the ends hold beyond.

50 x 20, 100 x 15, 200 x 10, 500 x 10 and 600 x 5 are the guide's epochs (15 to 20 for 50 to 100 pictures, about 10 for
200 to 500, at most 5 for more). Up to 20 pictures learn in 1,500 to 2,000 showings (10 epochs of 10 pictures learn
nothing); the lower end, because few pictures overfit sooner. More than the guide's largest number never helps.
"""
TEXT_LENGTHS = ((50, 1000), (100, 1500), (200, 2000), (1000, 3000), (8000, 24_000))
"""The same for texts: the guide's epochs up to 200 samples; from 1,000 on three epochs, up to about 25,000 showings, as
OpenAI's cookbook has it for fine-tuning ("Data preparation and analysis for chat model fine-tuning"); fewer than 50 are
seen 20 times, for they are soon known by heart. One epoch of more samples than that.
"""
PICTURES_FOR_16 = 30
"""Different pictures from which on rank 16 has enough to learn from."""
TEXTS_FOR_16 = 1000
"""Different texts from which on rank 8 may be too little."""
SMALL = 50
"""Different pictures below which a set is small: the guide advises 50 to 200."""
LARGE_RANK = 32
"""From this rank on a small set is learnt by heart (the guide)."""
FEWEST_HELD_OUT, MOST_HELD_OUT = 6, 8
HIGHEST = 3e-4
"""The guide's range of rates ends here, for images."""
NARROWEST = 1 / 20
"""A model is taken for at most so much narrower than its family is usually."""


@dataclass(frozen=True)
class Usual:
    """What is usual for a family at its full size.

    Args:
        title: what people call it.
        side: of its pictures, in pixels.
        window: effective batch.
        rate: of AdamW,
        at: at this effective batch.
    """

    title: str
    side: int
    window: int
    rate: float
    at: int


USUAL = {
    "sd15": Usual("Stable Diffusion 1.5", 512, 4, 2e-4, 2),  # the guide: 2e-4 at 2, 3e-4 at 4
    "sdxl": Usual("SDXL", 1024, 4, 1e-4, 4),
}
RANGE = (1e-4, 3e-4)
"""Rates that are usual for images (the guide), of AdamW, at full size, where the change is scaled by 1."""
TEXT_RANGE = (5e-5, 1e-4)
"""The same for text (the guide), where full size is that of the models that it speaks of:"""
LANGUAGE = 7_000_000_000
"""weights of LLaMA 2 and 3, Mistral, Qwen at 7 to 8 billion."""
OPTIMIZERS = {"lion": 0.1}
"""Times AdamW's rate: Lion steps by the sign alone (Chen et al., arXiv 2302.06675)."""


def usual(family: str) -> Usual:
    """What is usual for a family; for one without figures, what is for Stable Diffusion 1.5."""
    return USUAL.get(family, USUAL["sd15"])


def presentations(different: int, text: bool = False) -> float:
    """How often pictures, or texts, are to be shown in all.

    Args:
        different: those that differ.
        text: whether they are texts.
    """
    table = TEXT_LENGTHS if text else LENGTHS
    (first, shown), *_, (_, most) = table
    if different <= first:
        return shown * different / first if text else shown
    for (low, less), (high, more) in pairwise(table):
        if different <= high:
            return less + (more - less) * (different - low) / (high - low)
    return max(most, different) if text else most


def epochs(different: int, showings: float, text: bool = False) -> int:
    """The whole number of epochs that comes nearest to ``presentations``; at least 1.

    Args:
        different: pictures, or texts, that differ.
        showings: presentations in an epoch.
        text: whether they are texts.
    """
    return max(1, round(presentations(different, text) / showings))


def rank(different: int, class_prompt: str, family: str, text: bool = False) -> int:
    """8 to begin with, 16 where there is enough to learn from: 30 pictures (on SDXL of a style), or 1,000 texts.

    A style has no class: where a class prompt is given, something of that class is learnt.
    """
    if text:
        return 16 if different >= TEXTS_FOR_16 else 8
    enough = different >= PICTURES_FOR_16
    return 16 if enough and (family != "sdxl" or not class_prompt.strip()) else 8


def held_out(different: int) -> int:
    """Pictures to measure overfitting on: 1 or 2 of 10 to 20, about a tenth up to 8; 0 where each one is needed."""
    return 0 if different < FEWEST_HELD_OUT else min(MOST_HELD_OUT, max(1, (different + 5) // 10))


def resolution(sides: tuple[int, ...], base: Peek) -> int:
    """The side of the base's own pictures, but no more than half of the pictures have; a multiple of 64."""
    own = base.side or usual(base.family).side
    middle = sides[len(sides) // 2] if sides else own
    return max(64, min(own, middle) // 64 * 64)


def window(different: int, family: str) -> int:
    """The effective batch: the family's usual one, or all pictures where there are fewer."""
    return max(1, min(usual(family).window, different))


def width(base: Peek) -> float:
    """How wide a model is beside its family's full size: 1, but for one that is much smaller or larger.

    Weights grow with the square of the width. Adam's rate for a matrix goes with one over its width (Yang et al.,
    "Tensor Programs V", arXiv 2203.03466): the embedded model, 1/19 as wide, learns best at 4e-3
    (docs/measurements.md), and SmolLM2-135M, 1/7 as wide as LLaMA 2, its demo at 5e-4.
    """
    full = LANGUAGE if base.vocabulary else BASES.get(base.family)
    if not full or not base.parameters or 0.5 <= base.parameters / full <= 2:
        return 1.0
    return max(NARROWEST, sqrt(base.parameters / full))


def scale(config: TrainConfig) -> float:
    """What the trained change is multiplied by: alpha / rank, or alpha / sqrt(rank)."""
    return config.alpha / (sqrt(config.lora_rank) if config.lora_method == "rslora" else config.lora_rank)


def factor(config: TrainConfig, base: Peek) -> float:
    """What rates of AdamW at full size are multiplied by for this optimizer and this model."""
    return OPTIMIZERS.get(config.optimizer, 1.0) / width(base)


def rate(config: TrainConfig, base: Peek) -> float:
    """The learning rate for a config with its rank, alpha, optimizer and batch, to two digits.

    By the family's, which grows with the root of the effective batch (Malladi et al., arXiv 2205.10287) to at most
    3e-4. Where the change is scaled by another factor than 1 it moves as much faster or slower: half the rate, or
    twice, at most. Prodigy finds its rate by itself and multiplies it with this. Text has the upper end of the guide's
    range, whatever the batch, for a model of full size.
    """
    if config.optimizer == "prodigy":
        return 1.0
    if config.text:
        return _two_digits(TEXT_RANGE[1] * factor(config, base) * min(2.0, max(0.5, 1 / scale(config))))
    family = usual(base.family)
    grown = min(HIGHEST, family.rate * sqrt(config.window / family.at))
    return _two_digits(grown * factor(config, base) * min(2.0, max(0.5, 1 / scale(config))))


def off(config: TrainConfig, base: Peek) -> float:
    """How many orders of magnitude the rate lies outside of the usual range: below 0 is too low, above too high."""
    low, high = range_of(config, base)
    return min(0.0, log(config.learning_rate / low, 10)) or max(0.0, log(config.learning_rate / high, 10))


def range_of(config: TrainConfig, base: Peek) -> tuple[float, float]:
    """The usual rates, lowest and highest, for this optimizer and this model."""
    if config.optimizer == "prodigy":
        return 1.0, 1.0
    low, high = (_two_digits(one * factor(config, base)) for one in (TEXT_RANGE if config.text else RANGE))
    return low, high


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
