"""What is put to models that can be asked, in words, and what is taken from their answers."""

from __future__ import annotations

import re

from ..dataset.captions import tidy
from .base import Length, Purpose, Wish

ASKED = ("purpose", "prompt", "length")
"""Fields of ``Wish`` that a question is made of."""
TOKENS: dict[Length, int] = {"short": 60, "medium": 140, "long": 320}
"""The most that a model writes: what is asked for, and room to end the sentence."""

_LENGTHS: dict[Length, str] = {
    "short": "Write one sentence of at most 20 words.",
    "medium": "Write two or three sentences, at most 60 words in all.",
    "long": "Write one paragraph of about 150 words.",
}
_FORM = "Answer with the caption alone, as plain text in one line, without an introduction such as 'The image shows'."
_PLAIN = "Write a caption for this image. Say what is in it and how it looks: {seen}, and the medium."
_SEEN = "the subjects, what they do, their clothes, the objects, the surroundings, the light and the point of view"
# What a caption names stays under the prompt's control; what it leaves out becomes part of what is trained.
_STYLE = (
    "Write a caption for this image. Say what is in it: {seen}. Do not say how it is made: not a word about style, "
    "medium, technique, artist, palette, mood or quality, so no words such as photo, painting, drawing or anime."
)
_CHARACTER = (
    "{who} Describe all that may be different in another image of {it}: clothes, accessories, pose, "
    "expression, action, other subjects, background, light, point of view and medium. Do not describe what is always "
    "the same of {it}: face, eyes, hair colour, build, age or species."
)
_NAMED = 'Write a caption for this image of "{name}". Begin with "{name}", as the name of the main subject.'
_UNNAMED = "Write a caption for this image. Begin with the main subject."

_PICTURE = r"(?:image|picture|photo|photograph|illustration|painting|drawing|artwork|scene)"
_SHOWS = r"(?:shows|depicts|features|displays|portrays|captures|presents|is of|is showing|contains)"
_SEES = r"(?:there (?:is|are)|(?:we|you|i)(?: can)? see|(?:is|are) shown)"
_LEAD = re.compile(
    rf"^(?:(?:the|this) {_PICTURE} (?:{_SHOWS}|is(?= an? ))"
    rf"|in (?:the|this) {_PICTURE},?(?: {_SEES})?"
    rf"|{_SEES}"
    r"|(?:image )?(?:caption|description):)\s+",
    re.IGNORECASE,
)
# "Here is a caption:" and the like, before the caption itself.
_PREAMBLE = re.compile(r"^(?:sure|certainly|of course|okay|here(?:'s| is| are))\b[^.\n]*[:!]\s+", re.IGNORECASE)
_MEDIUM = re.compile(
    r"^(?:an? |the )?(?:(?!an?\b|the\b|\w+ing\b)[\w-]+,? ){0,2}"
    r"(?:image|picture|photo|photograph|illustration|painting|drawing|sketch|artwork|render|rendering|watercolou?r)"
    r" (?:of|showing|depicting) ",
    re.IGNORECASE,
)
_LINE_MARKS = re.compile(r"^[ \t]*(?:#+|[-*\u2022]|\d+\.)[ \t]+", re.MULTILINE)
_MARKS = re.compile(r"\*\*|__(?=\S)|(?<=\S)__|`+")
_QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb")


def question(wish: Wish) -> str:
    """What a model is asked: the user's own words if there are any, else by purpose and length."""
    if wish.prompt.strip():
        return wish.prompt.strip()
    if wish.purpose == "character":
        name = tidy(wish.trigger_word)
        who = _NAMED.format(name=name) if name else _UNNAMED
        asked = _CHARACTER.format(who=who, it=f'"{name}"' if name else "it")
    else:
        asked = (_STYLE if wish.purpose == "style" else _PLAIN).format(seen=_SEEN)
    return f"{asked} {_LENGTHS[wish.length]} {_FORM}"


def cleaned(answer: str, purpose: Purpose = "plain", *, cut: bool = False) -> str:
    """The caption in a model's answer: one line, without thoughts, introduction, markdown and quotes around it.

    Args:
        answer: as the model wrote it, without its special tokens.
        purpose: for a style ("a painting of a cat") also the medium in front is taken away.
        cut: the model had more to say than it was let: what is not whole at the end is taken away.
    """
    text = answer.rpartition("</think>")[2]
    text = tidy(_MARKS.sub("", _LINE_MARKS.sub("", text)))
    if cut:
        text = _whole(text)
    text = _PREAMBLE.sub("", text)
    if len(text) > 1 and text[0] + text[-1] in _QUOTES and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    text = _LEAD.sub("", text)
    return _MEDIUM.sub("", text) if purpose == "style" else text


def _whole(text: str) -> str:
    """The text up to its last whole sentence; without one, up to the last comma, or the last whole word."""
    ends = list(re.finditer(r"[.!?](?=\s|$)", text))
    if ends:
        return text[: ends[-1].end()]
    return text.rpartition(", ")[0] or text.rpartition(" ")[0] or text
