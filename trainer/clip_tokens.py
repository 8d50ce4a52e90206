"""Captions as tokens of CLIP, and how many of them a caption has."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BaseModelError

CHUNK = 77
"""Tokens of one chunk, with the marks of beginning and end."""
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
"""CLIP's own pieces of a text, for ASCII: tokens are cut within each. Captions have few different ones, so that it
is ten times as fast to count the tokens of these."""
SHIPPED = Path(__file__).parent / "families" / "assets" / "clip_l_tokenizer"


class ClipTokenizer:
    """Cuts captions into chunks of token ids exactly as ComfyUI does (``comfy.sd1_clip.SDTokenizer``).

    It is transformers' own CLIPTokenizer, which ComfyUI uses too; so the same installed version gives the same ids.
    (Version 4 puts spaces around Chinese characters, version 5 does not.)

    Args:
        folder: holds vocab.json and merges.txt.
    """

    def __init__(self, folder: Path = SHIPPED) -> None:
        from transformers import CLIPTokenizer

        missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        if missing:
            raise BaseModelError(f"{folder} holds no tokenizer: {' and '.join(missing)} missing", "download it again")
        # Without the two files the library would make up a tokenizer of two tokens, in silence.
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.start, self.end = self._tokenizer("")["input_ids"]
        self._of_a_piece = functools.lru_cache(1 << 16)(lambda piece: len(self._ids(piece)))

    @classmethod
    def from_tables(cls, vocab: Mapping[str, int], merges: Sequence[str]) -> ClipTokenizer:
        """The tokenizer of a vocabulary and its merges ("a b"), in the order in which they apply."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "vocab.json").write_text(json.dumps(dict(vocab)), encoding="utf-8")
            (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
            settings = json.loads((SHIPPED / "tokenizer_config.json").read_text(encoding="utf-8"))
            (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
            return cls(folder)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def chunks(self, caption: str, pad: int | None = None) -> list[list[int]]:
        r"""Chunks of 77 ids: begin, up to 75 tokens, end, and the padding (None: ends). The empty caption is one chunk.

        With prompt weights off ComfyUI takes a caption as one word, and cuts words of 8 tokens or more wherever a
        chunk is full: so every chunk but the last has 75 tokens. Brackets and ``embedding:`` are ordinary text; as in
        ComfyUI ``\(`` and ``\)`` stand for plain brackets.
        """
        ids = self._ids(_read(caption))
        inside = CHUNK - 2
        pieces = [ids[i : i + inside] for i in range(0, len(ids), inside)] or [[]]
        filling = self.end if pad is None else pad
        return [[self.start, *piece, self.end, *[filling] * (inside - len(piece))] for piece in pieces]

    def count(self, caption: str) -> int:
        """How many tokens a caption has, without the marks of beginning and end."""
        text = _read(caption)
        if text.isascii() and "<|" not in text:
            return sum(map(self._of_a_piece, _PIECES.findall(text.lower())))
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        # Begin and end are cut off by place: a caption may hold their names.
        return self._tokenizer(text)["input_ids"][1:-1] if text else []


def _read(caption: str) -> str:
    """What ComfyUI takes a caption for."""
    return caption.replace("\\)", ")").replace("\\(", "(")


@functools.lru_cache(1 << 16)
def exceeds_a_chunk(caption: str) -> bool:
    """Whether a caption has more tokens than a chunk takes, by the tokenizer that is shipped."""
    inside = CHUNK - 2
    # A token is at least one byte: for short captions nothing is loaded.
    return len(caption.encode(errors="replace")) > inside and _shipped().count(caption) > inside


@functools.lru_cache(1)
def _shipped() -> ClipTokenizer:
    return ClipTokenizer()
