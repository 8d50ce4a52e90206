"""Gemma's tokenizer out of the SentencePiece model that a single file holds, without the package of that name.

The model is a protobuf message (sentencepiece_model.proto): pieces with a score and a type. Gemma's is byte-pair
encoding with single bytes for what is in no piece; spaces are written as U+2581.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from ..errors import BaseModelError
from ..weights.header import AGAIN
from .templates import GEMMA

_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_BPE = 2


def from_sentencepiece(model: bytes, source: str) -> Any:
    """A tokenizer of transformers, with Gemma's marks and chat template.

    Args:
        model: a serialised ModelProto of byte-pair encoding.
        source: what errors call it.

    Raises:
        BaseModelError: it is broken, or of another kind.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    try:
        pieces, kind = _pieces(model)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise BaseModelError(f"{source}: the tokenizer in it is broken", AGAIN) from error
    ids = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    marks = [mark for mark in ("<bos>", "<eos>", "<unk>", "<pad>") if mark in ids]
    if kind != _BPE or len(marks) != 4:
        raise BaseModelError(
            f"{source}: the tokenizer in it is none of Gemma's", "set tokenizer to a folder with the model's tokenizer"
        )
    scores = {piece: score for piece, score, sort in pieces if sort in (_NORMAL, _USER)}
    own = Tokenizer(
        BPE(vocab=ids, merges=list(_merges(ids, scores)), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    own.normalizer = normalizers.Replace(" ", _SPACE)
    own.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    named = [piece for piece, _, sort in pieces if sort == _USER]
    own.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in named])
    special = [piece for piece, _, sort in pieces if sort == _CONTROL or piece in marks]
    turns = [piece for piece in ("<start_of_turn>", "<end_of_turn>") if piece in ids]
    own.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in [*special, *turns]])
    own.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=GEMMA,
        clean_up_tokenization_spaces=False,
    )


def _merges(ids: dict[str, int], scores: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Pairs that are joined, the best first: a piece's score is its rank."""
    found = []
    for piece, score in scores.items():
        for i in range(1, len(piece)):
            if (left := piece[:i]) in ids and (right := piece[i:]) in ids:
                found.append((-score, ids[left], ids[right], left, right))
    found.sort(key=lambda one: one[:3])
    yield from ((left, right) for *_, left, right in found)


def _pieces(model: bytes) -> tuple[list[tuple[str, float, int]], int]:
    """(piece, score, type) of each id, and the kind of the model (2: byte-pair encoding)."""
    pieces: list[tuple[str, float, int]] = []
    kind = 1
    for field, value in _fields(model):
        if field == 1 and isinstance(value, bytes):
            piece: dict[int, Any] = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            pieces.append((piece.get(1, b"").decode("utf-8"), score, piece.get(3, _NORMAL)))
        elif field == 2 and isinstance(value, bytes):
            kind = dict(_fields(value)).get(3, kind)
    if not pieces:
        raise ValueError("no pieces")
    return pieces, int(kind)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message: https://protobuf.dev/programming-guides/encoding."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("cut off")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
