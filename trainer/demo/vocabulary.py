"""The embedded base's small CLIP-style vocabulary: bytes, and merges that make each word of the world one token."""

from __future__ import annotations

import itertools
import re
from collections import Counter

from . import world

CONTEXT = 77
"""Tokens in a prompt, start and end included, as in CLIP."""

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses (GPT-2's and CLIP's order)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = itertools.count(256)
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(next(others))
    return [table[byte] for byte in [*printable, *(b for b in range(256) if b not in printable)]]


def merges() -> list[tuple[str, str]]:
    """Byte-pair merges, learned until each of `world.WORDS` is a single symbol, most frequent pair first."""
    words = [[*word[:-1], word[-1] + "</w>"] for word in world.WORDS]
    learned: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in words):
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        for word in words:
            for at in range(len(word) - 1):
                if tuple(word[at : at + 2]) == best:
                    word[at : at + 2] = ["".join(best)]
    return learned


def vocabulary() -> dict[str, int]:
    """Token to id: bytes, bytes at a word's end, merged symbols, start, end (the last two, as in CLIP)."""
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in merges()), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def tokenizer_json() -> dict[str, object]:
    """The vocabulary as the checkpoint's header carries it."""
    return {"vocab": vocabulary(), "merges": [" ".join(pair) for pair in merges()]}


def encode(captions: list[str]) -> list[list[int]]:
    """Token ids of captions made of the world's words, padded to 77 with the end token, as SD1.5 pads.

    Raises:
        KeyError: A word is not of this world (the pre-training writes every caption itself).
    """
    vocab = vocabulary()
    rows = []
    for caption in captions:
        words = re.findall(r"[a-z]+|,", caption)
        ids = [vocab[START], *(vocab[word + "</w>"] for word in words)]
        rows.append(ids + [vocab[END]] * (CONTEXT - len(ids)))
    return rows
