"""Text of caption files: UTF-8, else a guess that has a name.

Captions from old Windows programs come in the code page of the machine: GBK in China, Windows-1252 in the west, and
"Unicode" from Notepad, which is UTF-16. They are told apart by what their text would look like; what looks like none
of them is refused. A guess is never silent: whoever reads such a file reports it (``other-encoding``).
"""

from __future__ import annotations

import unicodedata
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

UTF8 = "UTF-8"
#: The Python codec of each encoding that is guessed.
CODECS = {UTF8: "utf-8", "UTF-16": "utf-16", "GBK": "gbk", "Windows-1252": "cp1252"}

# What western text has beside ASCII: accented letters, quotes, dashes, signs.
_WESTERN = frozenset(chr(code) for code in range(0xC0, 0x100) if code not in (0xD7, 0xF7)) | frozenset(
    "\u0152\u0153\u0160\u0161\u0178\u017d\u017e"
    "\u2018\u2019\u201a\u201c\u201d\u201e\u2013\u2014\u2026\u2022\u20ac\u2122"
    "\xa0\xa1\xa3\xa7\xa9\xab\xae\xb0\xb2\xb3\xb4\xb7\xbb\xbc\xbd\xbf"
)


def decode(data: bytes) -> tuple[str, str]:
    """Text without its byte-order mark, and the name of its encoding: a key of ``CODECS``.

    Raises:
        ValueError: it is none of them; says why it is not UTF-8.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        if (text := _as(data, "utf-16")) is not None:
            return text, "UTF-16"
        raise ValueError("begins as UTF-16 text and goes on as something else")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8 text (byte {error.start + 1})"
    else:
        if "\0" not in text:
            return text, UTF8
        fault = "is not text (it has zero bytes)"
    # Without its mark, UTF-16 of western text has a zero byte in every pair, always on the same side.
    if b"\0" in data:
        codec = "utf-16-be" if data[0] == 0 else "utf-16-le"
        if data.count(0) >= len(data) // 4 and (text := _as(data, codec)) is not None:
            return text, "UTF-16"
    elif (text := _as(data, "gbk")) is not None and _seems_chinese(text):
        return text, "GBK"
    elif (text := _as(data, "cp1252")) is not None and _seems_western(text):
        return text, "Windows-1252"
    raise ValueError(fault)


def encode(text: str, like: bytes) -> bytes:
    """Text in the encoding of what stood there before, its byte-order mark too.

    UTF-8 where that encoding lacks a character, or ``decode`` would guess another one.

    Args:
        text: to be encoded.
        like: what ``decode`` reads.
    """
    for mark, codec in ((BOM_UTF8, "utf-8"), (BOM_UTF16_LE, "utf-16-le"), (BOM_UTF16_BE, "utf-16-be")):
        if like.startswith(mark):
            return mark + text.encode(codec)
    encoding = decode(like)[1]
    codec = CODECS[encoding]
    if encoding == "UTF-16":
        codec = "utf-16-be" if like[:1] == b"\0" else "utf-16-le"
    try:
        data = text.encode(codec)
        if decode(data)[0] == text:
            return data
    except ValueError:
        pass
    return text.encode()


def _as(data: bytes, codec: str) -> str | None:
    """The text, if these bytes are such text: no control characters, nothing unassigned."""
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    if any(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") for c in set(text) - {"\t", "\n", "\r"}):
        return None
    return text


def _seems_chinese(text: str) -> bool:
    """Mostly common characters: western text read as GBK gives rare ones (a letter with an accent, and the next)."""
    foreign = [c for c in text if c > "\x7f"]
    return 10 * sum(map(_is_common_chinese, foreign)) >= 7 * len(foreign)


def _is_common_chinese(character: str) -> bool:
    """Punctuation and the 3,755 common characters, level 1 of GB 2312."""
    try:
        row = character.encode("gb2312")[0]
    except UnicodeEncodeError:
        return False
    return 0xA1 <= row <= 0xA3 or 0xB0 <= row <= 0xD7


def _seems_western(text: str) -> bool:
    """Accented letters among plain ones."""
    foreign = [c for c in text if c > "\x7f"]
    return 2 * len(foreign) <= len(text) and all(c in _WESTERN for c in foreign)
