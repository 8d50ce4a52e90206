"""Texts of any lengths end to end in one row, without any padding, and none sees another.

A row [1, T] with positions that begin anew at each text is, for every layer but attention, T independent tokens. The
attention is computed text by text, those of one length at once, by torch's own kernels; no mask of all pairs is made.
So nothing is computed that does not count, and a token of padding that is a token of the vocabulary too (``pad_token``
= ``eos_token``) cannot be mistaken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional

from .device import onto

ATTENTION = "darkroom_packed"


@dataclass(frozen=True)
class Packed:
    """Texts end to end.

    Args:
        ids: [1, T], int64.
        positions: [1, T], int64: of each token in its own text.
        lengths: tokens of each text, in order.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]


def pack(texts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Packed:
    """Lays texts end to end."""
    lengths = tuple(map(len, texts))
    ids = torch.tensor([[token for text in texts for token in text]])
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return Packed(onto(ids, device), onto(positions, device), lengths)


# Configs of the models that read rows, and the attention that each had before.
_former: WeakKeyDictionary[nn.Module, list[tuple[Any, str]]] = WeakKeyDictionary()


def read_rows(model: Any) -> None:
    """Has a transformers model read packed rows from now on: call it with ``packed=row.lengths``.

    From now on, not for the time of a call: checkpointing calls its blocks again in backward.
    """
    from transformers import AttentionInterface

    if model in _former:
        return
    AttentionInterface.register(ATTENTION, attention)
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    _former[model] = [(config, config._attn_implementation) for config in configs.values()]
    for config in configs.values():
        config._attn_implementation = ATTENTION


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Within it a model reads as before ``read_rows``: what generates wants caches and masks."""
    configs = _former.get(model, [])
    for config, name in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, _ in configs:
            config._attn_implementation = ATTENTION


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each text of a row, as transformers' ``AttentionInterface`` wants it.

    Args:
        module: the attention layer.
        query: [1, heads, T, D].
        key: [1, key heads, T, D]; each serves as many heads of the query.
        value: likewise.
        attention_mask: None: there is nothing to mask.
        packed: lengths of the texts in the row; their sum is T.
        scaling: of the products; None: 1 / sqrt(D).
        dropout: of the weights.
        sliding_window: how many tokens back a token sees at most; None: all.
        softcap: products are bounded by ``softcap * tanh(x / softcap)`` (Gemma 2); None: they are not.

    Returns:
        [1, T, heads, D], and None in place of the weights.
    """
    heads, shared = query.shape[1], query.shape[1] // key.shape[1]
    found, start = [], 0
    for length, alike in groupby(packed):
        count = len([*alike])
        # [1, h, n L, D] -> [n, h, L, D]
        q, k, v = (
            whole[0, :, start : start + count * length].unflatten(1, (count, length)).transpose(0, 1)
            for whole in (query, key, value)
        )
        if shared > 1:
            k, v = (one.repeat_interleave(shared, 1) for one in (k, v))
        out = _causal(q, k, v, scaling, dropout if module.training else 0.0, sliding_window, softcap)
        found.append(out.permute(0, 2, 1, 3).reshape(1, count * length, heads, -1))
        start += count * length
    return torch.cat(found, 1), None


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    length = query.shape[-2]
    narrow = window is not None and length > window
    if not narrow and softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling
        )
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if narrow:
        seen = seen.triu(1 - window)  # type: ignore[operator]
    if softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=dropout, scale=scaling
        )
    products = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    products = softcap * torch.tanh(products / softcap)
    weights = products.masked_fill(~seen, float("-inf")).float().softmax(-1).to(query.dtype)
    return functional.dropout(weights, dropout, training=dropout > 0) @ value
