"""The prompt far from the data set: by its picture one sees what a LoRA does where it should do nothing."""

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


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _vocabulary(family: str, base: Path) -> set[str] | None:
    """The words of a base model that brings a tokenizer of its own; None of any other."""
    try:
        vocabulary = described(base, family)["tokenizer"]["vocab"]
    except (BaseModelError, KeyError):
        return None
    return {token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")}
