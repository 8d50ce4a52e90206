"""The variants of a caption that are drawn ahead, so that a text encoder's output can be cached: at most K an image."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import draws
from .captions import contains_word

K = 8
"""Variants of an image's captions; an epoch shows one of them."""
_WORDS_OF_A_TAG = 4
_SENTENCE = re.compile(r"[.!?](\s|$)")


def is_tags(caption: str) -> bool:
    """Whether a caption is a list of tags: three parts or more between commas, short ones, and no sentence."""
    tags = [tag.split() for tag in caption.split(",") if tag.strip()]
    return len(tags) >= 3 and not _SENTENCE.search(caption) and sum(map(len, tags)) / len(tags) <= _WORDS_OF_A_TAG


def shuffled(captions: Sequence[str], *, trigger_word: str, keep: int, seed: int, sample: str) -> tuple[str, ...]:
    """Captions with their tags in other orders; captions in sentences stay as they are.

    Args:
        captions: alternatives of one image.
        trigger_word: tags that hold it come first, and stay there.
        keep: so many tags stay in front beside them.
        seed: the run's.
        sample: names the image's draws.

    Returns:
        At most ``K`` captions (or the alternatives, if there are more), of each alternative as many: one that has no
        other order is there again and again. Of one alternative alone each order is there once.
    """
    tags = [is_tags(caption) for caption in captions]
    if not any(tags):
        return tuple(captions)
    found: list[str] = []
    for number in range(max(1, K // len(captions)) * len(captions)):
        place = number % len(captions)
        caption = captions[place]
        found.append(_shuffle(caption, trigger_word, keep, seed, sample, number) if tags[place] else caption)
    return tuple(found if len(captions) > 1 else dict.fromkeys(found))


def without(caption: str, trigger_word: str) -> str:
    """A caption without its trigger word: the tag that is the word falls away, elsewhere the word alone."""
    if not trigger_word.strip():
        return caption
    word = re.compile(rf"(?<!\w){re.escape(' '.join(trigger_word.split()))}(?!\w)", re.IGNORECASE)
    tags = [" ".join(word.sub("", tag).split()) for tag in caption.split(",")]
    return ", ".join(tag for tag in tags if tag)


def _shuffle(caption: str, trigger_word: str, keep: int, seed: int, sample: str, number: int) -> str:
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    held = [tag for tag in tags if trigger_word.strip() and contains_word(tag, trigger_word)]
    rest = [tag for tag in tags if tag not in held]
    moving = rest[keep:]
    order = sorted(range(len(moving)), key=lambda i: draws.uniform(seed, sample, "shuffle", number, i))
    return ", ".join([*held, *rest[:keep], *(moving[i] for i in order)])
