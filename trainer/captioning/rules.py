"""What is done to every caption that a captioner gives: words replaced, something put in front and behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..dataset.captions import tidy as one_line
from ..errors import CaptionError

ARROW = "->"
_CJK = 0x2E80  # from here on writing has no blanks between words


@dataclass(frozen=True)
class Rules:
    """How captions are changed before they are written.

    Args:
        prefix: stands before each, as it is typed; a comma at its end stays.
        suffix: stands behind each.
        replace: pairs (old, new), one after the other; an empty new one takes the old one out.
    """

    prefix: str = ""
    suffix: str = ""
    replace: tuple[tuple[str, str], ...] = ()

    def __call__(self, caption: str) -> str:
        """The caption, changed and tidied; nothing stays nothing."""
        text = one_line(caption)
        for old, new in self.replace:
            text = _replaced(text, old, new)
        text = tidy(text)
        return tidy(f"{self.prefix} {text} {self.suffix}") if text else ""


def read(lines: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Rules from lines such as ``a woman -> sks woman``; lines without a word are passed over.

    Raises:
        CaptionError: a line has no arrow, or nothing before it.
    """
    found = []
    for line in lines.splitlines() if isinstance(lines, str) else lines:
        old, arrow, new = line.partition(ARROW)
        if not line.strip():
            continue
        if not arrow or not old.strip():
            raise CaptionError(
                f"replace: {line.strip()!r} is no rule: expected old {ARROW} new",
                f"Write one a line, such as: a woman {ARROW} sks woman. Nothing behind the arrow takes words out.",
            )
        found.append((one_line(old), one_line(new)))
    return tuple(found)


def tidy(text: str) -> str:
    """One line, single blanks, none before a comma, no comma twice, at the start or at the end."""
    text = re.sub(r"\s+([,.;:!?])(?=\s|$)", r"\1", one_line(text))
    text = re.sub(r"[.;]?,(?:\s*,)+", ",", text)  # what was taken out leaves its comma
    text = re.sub(r"[.;],", ",", text)
    return text.strip(" ,")


def _replaced(text: str, old: str, new: str) -> str:
    """Whole words, in whatever case: ``man`` is no part of ``woman``."""
    before = r"(?<!\w)" if is_letter(old[0]) else ""
    behind = r"(?!\w)" if is_letter(old[-1]) else ""
    return re.sub(before + re.escape(old) + behind, lambda _: new, text, flags=re.IGNORECASE)


def is_letter(character: str) -> bool:
    """Whether a word begins or ends with it; writing without blanks between words has no such."""
    return (character.isalnum() or character == "_") and ord(character) < _CJK
