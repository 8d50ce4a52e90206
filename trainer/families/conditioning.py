"""Conditioning of several samples as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm

import torch


def stack_conditioning(entries: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Conditioning [1, T_i, D] of several samples as [B, T, D].

    Different lengths are brought together by repeating to their least common multiple, as ComfyUI does
    (``comfy.conds.CONDCrossAttn``): repeated tokens leave the result of attention as it was, zeros would not.
    """
    stacked = {}
    for name in entries[0]:
        tensors = [entry[name] for entry in entries]
        if tensors[0].ndim == 3:
            length = lcm(*(tensor.shape[1] for tensor in tensors))
            tensors = [tensor.repeat(1, length // tensor.shape[1], 1) for tensor in tensors]
        stacked[name] = torch.cat(tensors)
    return stacked
