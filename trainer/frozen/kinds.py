"""How a frozen weight is stored: as it is, in 8 bits or in about 4; and what it stands for.

Plain torch on every device: these run once a weight when a model is loaded (``pack``), and whenever a layer is used
(``unpack``).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch.nn import functional

KINDS = ("plain", "int8", "fp8", "nf4")
Packed = tuple[torch.Tensor, ...]
"""The weight's own numbers, the largest part, come first."""

_FP8 = torch.float8_e4m3fn
BLOCK = 64  # weights that share a scale in int8 and nf4
# The quantiles of a normal distribution; appendix E of Dettmers et al., arXiv 2305.14314.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def pack(kind: str, weight: torch.Tensor) -> Packed:
    """A weight in storage.

    Args:
        kind: ``plain``, ``int8`` (a scale every 64 weights), ``fp8`` (e4m3, a scale an output) or ``nf4`` (4 bits, a
            scale every 64 weights).
        weight: [out, ...], floating.
    """
    if kind == "plain":
        return (weight.detach(),)
    return {"int8": _pack_int8, "fp8": _pack_fp8, "nf4": _pack_nf4}[kind](weight.detach())


def unpack(kind: str, packed: Packed, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """What a stored weight stands for, in a shape and a number format.

    In few bits it stands for numbers of bf16, so it is the same in every format that holds these.
    """
    if kind == "plain":
        return packed[0].to(dtype)
    codes, scale = packed
    if kind == "fp8":
        return codes.to(torch.bfloat16).mul_(scale).to(dtype).view(shape)
    if kind == "int8":
        values = codes.to(torch.bfloat16)
    else:  # two weights a byte, so of each byte its pair
        values = functional.embedding(codes.int(), _pairs(codes.device))
    weights = values.view(-1, BLOCK).mul_(scale).view(-1)
    return weights[: math.prod(shape)].to(dtype).view(shape)


def size(kind: str, shape: torch.Size, dtype: torch.dtype) -> int:
    """Bytes of a weight in storage."""
    numbers = math.prod(shape)
    if kind == "plain":
        return numbers * dtype.itemsize
    if kind == "fp8":
        return numbers + 2 * shape[0]
    blocks = -(-numbers // BLOCK)
    return blocks * (BLOCK + 2 if kind == "int8" else BLOCK // 2 + 2)


def possible(device: torch.device | str) -> tuple[str, ...]:
    """What can be used on a device: ``int8``, ``fp8``, ``nf4``, and ``ram`` (weights and activations in RAM)."""
    device = torch.device(device)
    found = []
    for kind in KINDS[1:]:
        try:
            trial = torch.ones(2, BLOCK, device=device)
            unpack(kind, pack(kind, trial), trial.shape, torch.float32)
            found.append(kind)
        except (RuntimeError, TypeError, NotImplementedError):  # a number format that the device does not know
            continue
    return (*found, "ram") if device.type == "cuda" else tuple(found)


def _pack_fp8(weight: torch.Tensor) -> Packed:
    rows = weight.flatten(1).float()
    # A row's scale is the smallest power of two at which its largest weight is in range. The error is that of any other
    # scale, within a few per cent (a float's steps grow with the number), and codes times scale are exact in bf16.
    share, exponent = torch.frexp(rows.abs().amax(1, keepdim=True) / torch.finfo(_FP8).max)
    scale = torch.ldexp(torch.ones_like(share), exponent)
    return (rows / scale).to(_FP8), scale.bfloat16()


def _pack_int8(weight: torch.Tensor) -> Packed:
    blocks, peak = _blocks(weight)
    scale = (peak / 127).bfloat16()
    return (blocks / _divisor(scale)).round_().clamp_(-127, 127).to(torch.int8), scale


def _pack_nf4(weight: torch.Tensor) -> Packed:
    blocks, peak = _blocks(weight)
    # In bf16 they are 0.1 % off, beside the codes' 9 %: as good as a second quantisation of scales, and simpler.
    scale = peak.bfloat16()
    values = torch.tensor(_NF4, device=weight.device)
    borders = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(blocks / _divisor(scale), borders, out_int32=True).to(torch.uint8).view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1], scale


def _blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in blocks, filled up with zeros, fp32; and the largest of each."""
    flat = weight.flatten().float()
    blocks = functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    return blocks, blocks.abs().amax(1, keepdim=True)


def _divisor(scale: torch.Tensor) -> torch.Tensor:
    return scale.float().clamp_min(torch.finfo(torch.float32).tiny)


@cache
def _pairs(device: torch.device) -> torch.Tensor:
    """[256, 2]: the two values of a byte, bf16. Made once: a copy from the CPU waits for the device."""
    values = torch.tensor(_NF4, device=device, dtype=torch.bfloat16)
    return torch.stack((values.repeat_interleave(16), values.repeat(16)), dim=1)
