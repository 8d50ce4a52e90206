"""What is far from the data set: there one sees what a LoRA does where it should do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .errors import BaseModelError
from .peek import described

PROMPTS = (
    "a lighthouse on a rocky coast, photograph",
    "a bowl of fruit on a wooden table, oil painting",
    "an old man reading a newspaper in a park",
    # For a base model that knows no others' words: the drawn world's.
    "a small green tree on a mint background, watercolor",
    "a big pink moon on a gray background, striped",
)
QUESTIONS = (
    "What is the capital of France?",
    "How many days are there in a week?",
    "What colour is the sky on a clear day?",
)
TEXTS = (
    "Water boils at one hundred degrees Celsius at sea level, and freezes at zero degrees.",
    "The train to the coast leaves every hour from the second platform of the old station.",
    "In the middle of the town there is a market where people buy bread, fruit and flowers.",
    "A triangle has three sides, and the sum of its angles is one hundred and eighty degrees.",
)
"""What a language model should expect as much after the training as before."""
_WORD = re.compile(r"\w+")


def canary(family: str, base: Path, captions: Iterable[str]) -> str:
    """A prompt that the base model understands, and that has the fewest words in common with the captions.

    Args:
        family: of the base model.
        base: its file or folder; one that cannot be read is told elsewhere.
        captions: of the data set.
    """
    known = _vocabulary(family, base)
    possible = [prompt for prompt in PROMPTS if known is None or _words(prompt) <= known] or list(PROMPTS)
    taken = {word for caption in captions for word in _words(caption)}
    return min(possible, key=lambda prompt: len(_words(prompt) & taken))


def question(texts: Iterable[str]) -> str:
    """A plain question that has the fewest words in common with those of a data set of texts."""
    taken = {word for text in texts for word in _words(text)}
    return min(QUESTIONS, key=lambda one: len(_words(one) & taken))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _vocabulary(family: str, base: Path) -> set[str] | None:
    """The words of a base model that brings a tokenizer of its own; None of any other."""
    try:
        vocabulary = described(base, family)["tokenizer"]["vocab"]
    except (BaseModelError, KeyError):
        return None
    return {token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")}
