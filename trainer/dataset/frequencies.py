"""How often tags and words are in the captions of a data set: what the LoRA will tie what it learns to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

from .. import fonts
from .findings import counted
from .items import ImageItem
from .variants import is_tags

Kind = Literal["tags", "words"]
KINDS = {
    "auto": "tags where most captions are lists of tags, else words",
    "tags": "what stands between commas, of captions that are lists of tags",
    "words": "the words of all captions, without articles and the like",
}
_COMMAS = re.compile("[,\uff0c\u3001]")
# Kana and Chinese characters, which have no blanks between words. Without the particle of attributes, so that "red DE
# house" is two.
_CJK = r"\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u7683\u7685-\u9fff\uf900-\ufaff"
_LETTERS = rf"[^\W_\u7684{_CJK}]+"
_WORD = re.compile(rf"[{_CJK}]+|{_LETTERS}(?:['\u2019_-]{_LETTERS})*")
# They are in every sentence and say nothing of a picture.
_FUNCTION_WORDS = frozenset((
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "with", "by", "from", "for", "as", "is", "are", "be",
    "it", "its", "his", "her", "their", "this", "that",
))  # fmt: skip
_INK, _PALE, _PAPER, _BAR = (30, 30, 30), (110, 110, 110), (255, 255, 255), (79, 129, 189)
_GAP = 8


@dataclass(frozen=True)
class Frequencies:
    """In how many captions each tag or word is.

    Attributes:
        kind: what is counted.
        captions: how many captions were looked at; alternatives of an image are captions of their own.
        counts: (tag or word, captions), the most frequent first, then by the alphabet.
    """

    kind: Kind
    captions: int
    counts: tuple[tuple[str, int], ...]

    @property
    def title(self) -> str:
        """One line."""
        return f"{self.kind}, in how many of {counted(self.captions, 'caption')}"

    def table(self, most: int) -> str:
        """Lines for people, the most frequent first."""
        if not self.counts:
            return f"{self.title}: none"
        lines = [f"    {count:>6} {count / self.captions:>5.0%}  {name}" for name, count in self.counts[:most]]
        more = [f"    and {len(self.counts) - most} more"] if len(self.counts) > most else []
        return "\n".join([f"{self.title}:", *lines, *more])


def frequencies(items: Sequence[ImageItem], kind: str = "auto") -> Frequencies:
    """Counts tags or words. Upper and lower case are the same; a caption counts once, however often it says a word.

    Args:
        items: of a data set.
        kind: a key of ``KINDS``.
    """
    captions = [caption for item in items for caption in item.captions if caption]
    lists = [caption for caption in captions if is_tags(_with_commas(caption))]
    if kind == "tags" or (kind == "auto" and 2 * len(lists) > len(captions)):
        found = (tags_of(caption) for caption in lists)
        return Frequencies("tags", len(lists), _most_frequent(found))
    return Frequencies("words", len(captions), _most_frequent(map(words_of, captions)))


def tags_of(caption: str) -> list[str]:
    """What stands between commas, Chinese ones too; in lower case."""
    return [tag for part in _with_commas(caption).split(",") if (tag := " ".join(part.split()).casefold())]


def words_of(caption: str) -> list[str]:
    """Words in lower case, without articles and the like. Chinese and Japanese have no blanks: there it is what signs,
    Latin words and the Chinese attributive particle set apart."""
    words = (word.casefold() for word in _WORD.findall(caption))
    return [word for word in words if word not in _FUNCTION_WORDS]


def drawn(found: Frequencies, most: int = 30, *, width: int = 768) -> Image.Image:
    """A bar for each of the most frequent, with its name and its number.

    Args:
        found: what was counted.
        most: bars at most.
        width: in pixels.
    """
    shown = found.counts[:most]
    size = 16
    line = round(size * 1.6)
    font, texts = fonts.fitting("\n".join([found.title, *(name for name, _ in shown)]), size)
    title, *names = texts.split("\n")
    names = [_cut(name, font, width * 0.4) for name in names]
    margin = round(max((font.getlength(name) for name in names), default=0)) + 2 * _GAP
    room = width - margin - round(font.getlength("00000 100%")) - 3 * _GAP
    sheet = Image.new("RGB", (width, line * (len(shown) + 1) + 3 * _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP + line / 2), title if shown else f"{title}: none", _INK, font, anchor="lm")
    for row, (name, (_, count)) in enumerate(zip(names, shown, strict=True), 1):
        middle = 2 * _GAP + line * row + line / 2
        length = max(1.0, room * count / found.captions)
        pen.text((margin - _GAP, middle), name, _INK, font, anchor="rm")
        pen.rectangle((margin, middle - size / 2, margin + length, middle + size / 2), _BAR)
        number = f"{count}  {count / found.captions:.0%}"
        pen.text((margin + length + _GAP, middle), number, _PALE, font, anchor="lm")
    return sheet


def _with_commas(caption: str) -> str:
    return _COMMAS.sub(",", caption)


def _most_frequent(found: Iterable[list[str]]) -> tuple[tuple[str, int], ...]:
    counts = Counter(name for names in found for name in set(names))
    return tuple(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _cut(text: str, font: fonts.Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
