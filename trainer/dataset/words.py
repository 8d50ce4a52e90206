"""Words out of names of files and folders."""

from __future__ import annotations

import re

_BETWEEN = re.compile(r"[\s_\-+.,;~]+")
# A counter at the end of a word (house01); a single digit may belong to it (mp3).
_COUNTER = re.compile(r"(?<=[^\W\d])0\d+$")
_NUMBER = re.compile(r"[#(\[]*\d+[)\]]*")
_HASH = re.compile(r"(?=.*\d)[0-9a-f]{8,}", re.IGNORECASE)
# What cameras, phones and programs call every file.
_MEANINGLESS = {"img", "image", "images", "pic", "picture", "photo", "scan", "screenshot", "download", "copy"}
_MEANINGLESS |= {"dsc", "dscn", "dscf", "pxl", "vid", "untitled", "unnamed", "comfyui"}


def words_of(name: str) -> str:
    """The words of a name without its suffix: ``red_house-01`` is ``red house``, ``IMG_2041`` has none.

    Underscores, hyphens and dots become blanks. Numbers and hashes at either end are dropped (counters, dates, and
    the repeats in kohya's ``10_name``); inside they stay.
    """
    words = [_COUNTER.sub("", word) for word in _BETWEEN.split(name) if word]
    while words and _is_counter(words[0]):
        words.pop(0)
    while words and _is_counter(words[-1]):
        words.pop()
    if all(word.casefold() in _MEANINGLESS or _is_counter(word) for word in words):
        return ""
    return " ".join(words)


def _is_counter(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None or _HASH.fullmatch(word) is not None
