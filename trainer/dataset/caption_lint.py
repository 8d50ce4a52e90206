"""What might be better about the captions of a data set. A part of ``lint``.

What is named is what a good data set does not have: a caption that a second picture has, too, is nothing; a tenth of
them is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ..clip_tokens import CHUNK, exceeds_a_chunk
from .captions import contains_word
from .findings import Finding, counted, names_of
from .items import Dataset, ImageItem
from .variants import is_tags

#: A caption is named that more than this part of the captioned images share.
SAME = 0.5
#: Captions that several images share are named from this part of the images on, or from so many images of one caption.
REPEATED, TIMES = 0.1, 3
#: What so large a part of the captions begins with may be the trigger word.
MOSTLY = 0.75
_LEAST_IMAGES = 4

# In the languages of the guide's readers. The Chinese words stand between other characters.
_SIDES = re.compile(
    r"\b(?:left|right)(?:most|wards?|-?hand(?:ed)?|-?side)?\b|\b(?:links|rechts)\b|[\u5de6\u53f3]", re.IGNORECASE
)
# "right" that is no side.
_NO_SIDES = re.compile(r"\bright (?:angles?|now|before|after|behind|beside|next to|above|below)\b", re.IGNORECASE)
# What ComfyUI would read as weights: brackets without a backslash.
_BRACKETS = re.compile(r"(?<!\\)\([^()]*\)")
_WEIGHTS = re.compile(r"(?<!\\)\(\s*(?<!\\)\(|(?<!\\)\([^()]*:\s*-?\d*\.?\d+\s*\)")
_NUMBER_OF_PEOPLE = re.compile(r"\d\+?(?:girls?|boys?|others?)|solo|multiple (?:girls|boys)", re.IGNORECASE)
# Words that sentences have and tags have not.
_PROSE = re.compile(r"\b(?:an?|the|is|are|his|her|their|its|ein|eine[nmr]?|der|die|das|une?|les?)\b", re.IGNORECASE)
_WORDS_OF_PROSE = 6


def of_captions(dataset: Dataset, items: Sequence[ImageItem], *, flip: bool) -> Iterator[Finding]:
    """Looks at captions.

    Args:
        dataset: as ``scan`` gave it.
        items: those of its images that have a caption of their own.
        flip: whether pictures will be flipped.
    """
    same = list(_same(items))
    yield from same
    if not same:
        yield from _repeated(items)
    yield from _trigger_word(dataset, items)
    yield from _mixed(items)
    yield from _brackets(items)
    yield from _long(items)
    if flip:
        yield from _sides(dataset.items)


def _same(items: Sequence[ImageItem]) -> Iterator[Finding]:
    if len(items) < 3:
        return
    (captions, count), *_ = Counter(item.captions for item in items).most_common(1)
    if count > SAME * len(items):
        message = f"{count} of {len(items)} captioned images share {captions[0]!r}: nothing tells them apart"
        yield Finding("same-caption", message, names=names_of(item for item in items if item.captions == captions))


def _repeated(items: Sequence[ImageItem]) -> Iterator[Finding]:
    images: dict[str, dict[str, str]] = {}  # caption -> content -> name: one picture twice is the scan's to name
    for item in items:
        for caption in item.captions:
            images.setdefault(caption, {}).setdefault(item.content, item.name)
    shared = {caption: [*names.values()] for caption, names in images.items() if len(names) > 1}
    sharing = dict.fromkeys(name for names in shared.values() for name in names)
    count = len(sharing)
    if not shared or (count < REPEATED * len(items) and max(map(len, shared.values())) < TIMES):
        return
    lines = tuple(f"{caption}: {_listed(names)}" for caption, names in shared.items())
    what = f"{counted(len(shared), 'caption')} at {count} images"
    yield Finding("repeated-caption", f"{what}: say what tells these pictures apart", lines, tuple(sharing))


def _trigger_word(dataset: Dataset, items: Sequence[ImageItem]) -> Iterator[Finding]:
    lacking = [item for item in items if item.path in dataset.untriggered]
    if lacking and len(lacking) < len(items):
        message = f"{len(lacking)} of {len(items)} captions lack the trigger word, which was put in front of them"
        yield Finding("trigger-word", message, names_of(lacking), names_of(lacking))
        return
    if lacking or len(items) < _LEAST_IMAGES:
        return
    first = Counter(item.captions[0].partition(",")[0].strip().casefold() for item in items if "," in item.captions[0])
    for word, count in first.most_common(1):
        without = [item for item in items if not contains_word(item.captions[0], word)]
        if without and count >= MOSTLY * len(items) and not _NUMBER_OF_PEOPLE.fullmatch(word):
            lines = tuple(f"{item.name}: {item.captions[0]}" for item in without)
            message = f"{count} of {len(items)} captions begin with {word!r}, but not all have it"
            told = f"{message}: if it is the trigger word, give it as such"
            yield Finding("trigger-word", told, lines, names_of(without))


def _mixed(items: Sequence[ImageItem]) -> Iterator[Finding]:
    kinds = {item: {_kind(caption) for caption in item.captions} for item in items}
    # An image with alternatives of both kinds has them on purpose.
    tags = [item for item, kind in kinds.items() if kind == {"tags"}]
    prose = [item for item, kind in kinds.items() if kind == {"prose"}]
    if not tags or not prose:
        return
    fewer, what = (tags, "tags") if len(tags) < len(prose) else (prose, "sentences")
    message = f"tags at {len(tags)}, sentences at {len(prose)} images: a prompt of one kind calls half of them"
    lines = tuple(f"{item.name}, {what}: {item.captions[0]}" for item in fewer)
    yield Finding("mixed-captions", message, lines, names_of(fewer))


def _kind(caption: str) -> str:
    """``tags``, ``prose``, or nothing where that is not sure."""
    tags, prose = is_tags(caption), _PROSE.search(caption) is not None
    if tags == prose:
        return ""
    return "tags" if tags else "prose" if len(caption.split()) >= _WORDS_OF_PROSE else ""


def _brackets(items: Sequence[ImageItem]) -> Iterator[Finding]:
    captions = [(item.name, caption) for item in items for caption in item.captions]
    weights = [(name, caption) for name, caption in captions if _WEIGHTS.search(caption)]
    if weights:
        what = f"{counted(len(weights), 'caption')} with the weights of a prompt"
        lines = tuple(f"{name}: {caption}" for name, caption in weights)
        told = f"{what}: captions have none, brackets and numbers are trained as text"
        yield Finding("weights", told, lines, tuple(dict.fromkeys(name for name, _ in weights)))
    plain = [one for one in captions if one not in weights and _BRACKETS.search(one[1])]
    if plain:
        tag = next(tag.strip() for tag in plain[0][1].split(",") if _BRACKETS.search(tag) or "(" in tag)
        escaped = re.sub(r"(?<!\\)([()])", r"\\\1", tag)
        message = (
            f"{counted(len(plain), 'caption')} with brackets: trained as they stand, but a prompt reads them as "
            f"weights. Write {escaped} there; here, too, it is trained as {tag}"
        )
        lines = tuple(f"{name}: {caption}" for name, caption in plain)
        yield Finding("brackets", message, lines, tuple(dict.fromkeys(name for name, _ in plain)))


def _long(items: Sequence[ImageItem]) -> Iterator[Finding]:
    long = [item for item in items if any(map(exceeds_a_chunk, item.captions))]
    if long:
        what = "1 caption is" if len(long) == 1 else f"{len(long)} captions are"
        message = f"{what} longer than CLIP's {CHUNK} tokens: trained in chunks of {CHUNK}, as ComfyUI generates"
        yield Finding("long-caption", message, names_of(long), names_of(long))


def _sides(items: Sequence[ImageItem]) -> Iterator[Finding]:
    found = [
        (item.name, caption) for item in items for caption in item.captions if _SIDES.search(_NO_SIDES.sub("", caption))
    ]
    if found:
        lines, names = tuple(f"{name}: {caption}" for name, caption in found), dict.fromkeys(name for name, _ in found)
        message = f"{counted(len(found), 'caption')} with left or right, and flips are on"
        yield Finding("left-right", message, lines, tuple(names))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
