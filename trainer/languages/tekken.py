"""Mistral's tokenizer (Tekken) out of the JSON that a single file holds, read as ComfyUI reads it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from ..errors import BaseModelError
from ..weights.header import AGAIN
from .templates import MISTRAL

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def from_tekken(model: bytes, source: str) -> Any:
    """A tokenizer of transformers, with Mistral's marks and chat template.

    Args:
        model: the contents of a ``tekken.json``.
        source: what errors call it.

    Raises:
        BaseModelError: it is broken.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    try:
        data = json.loads(model)
        ranks, special, pattern = _tables(data)
    except (ValueError, KeyError, TypeError) as error:
        raise BaseModelError(f"{source}: the tokenizer in it is broken", AGAIN) from error
    letters = _letters()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {written[token]: rank for token, rank in ranks.items()} | special
    merges = [(written[left], written[right]) for left, right in _merges(ranks)]
    own = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", special["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>" if "<pad>" in special else "</s>",
        chat_template=MISTRAL,
        clean_up_tokenization_spaces=False,
    )


def _tables(data: Any) -> tuple[dict[bytes, int], dict[str, int], str]:
    """Tokens of bytes and their ids, special tokens and their ids, and the pattern that text is split by."""
    config = data["config"]
    offset = config["default_num_special_tokens"]
    most = config["default_vocab_size"] - offset
    ranks = {base64.b64decode(w["token_bytes"]): w["rank"] + offset for w in data["vocab"] if w["rank"] < most}
    special = {w["token_str"]: w["rank"] for w in data["special_tokens"]}
    if not {"<s>", "</s>", "<unk>"} <= special.keys():
        raise ValueError("no marks")
    return ranks, special, config.get("pattern") or _PATTERN


def _merges(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Pairs that are joined, the best first: a token's id is its rank."""
    for token in sorted(ranks, key=ranks.__getitem__):
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        both = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        yield from sorted(both, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _letters() -> dict[int, str]:
    """A visible letter for every byte, as byte-level tokenizers write them."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
