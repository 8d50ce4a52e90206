"""How a frozen weight is stored: as it is, in 8 bits or in about 4; and what it stands for.

Plain torch on every device: these run once a weight when a model is loaded (``pack``), and whenever a layer is used
(``unpack``).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

KINDS = ("plain", "fp8", "nf4")
Packed = tuple[torch.Tensor, ...]
"""The weight's own numbers, the largest part, come first."""

_FP8 = torch.float8_e4m3fn
BLOCK = 64  # weights that share a scale in nf4
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
        kind: ``plain``, ``fp8`` (e4m3 with a scale an output) or ``nf4`` (4 bits with a scale every 64 weights).
        weight: [out, ...], floating.
    """
    if kind == "plain":
        return (weight.detach(),)
    return _pack_fp8(weight.detach()) if kind == "fp8" else _pack_nf4(weight.detach())


def unpack(kind: str, packed: Packed, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """What a stored weight stands for, in a shape and a number format.

    In few bits it stands for numbers of bf16, so it is the same in every format that holds these.
    """
    if kind == "plain":
        return packed[0].to(dtype)
    codes, scale = packed
    if kind == "fp8":
        return codes.to(torch.bfloat16).mul_(scale).to(dtype).view(shape)
    # Two weights a byte, so of each byte its pair.
    pairs = functional.embedding(codes.int(), _pairs(codes.device))
    weights = pairs.view(-1, BLOCK).mul_(scale).view(-1)
    return weights[: math.prod(shape)].to(dtype).view(shape)


def size(kind: str, shape: torch.Size, dtype: torch.dtype) -> int:
    """Bytes of a weight in storage."""
    numbers = math.prod(shape)
    if kind == "plain":
        return numbers * dtype.itemsize
    if kind == "fp8":
        return numbers + 2 * shape[0]
    blocks = -(-numbers // BLOCK)
    return blocks * (BLOCK // 2 + 2)


def possible(device: torch.device | str) -> tuple[str, ...]:
    """What can be used on a device: of ``fp8``, ``nf4``, and ``ram`` (weights and activations in RAM)."""
    device = torch.device(device)
    found = []
    for kind in ("fp8", "nf4"):
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


def _pack_nf4(weight: torch.Tensor) -> Packed:
    flat = weight.flatten().float()
    flat = functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    # In bf16 they are 0.1 % off, beside the codes' 9 %: as good as a second quantisation of scales, and simpler.
    scale = flat.abs().amax(1, keepdim=True).bfloat16()
    values = torch.tensor(_NF4, device=weight.device)
    borders = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(flat / scale.float().clamp_min(torch.finfo(torch.float32).tiny), borders, out_int32=True)
    codes = codes.to(torch.uint8).view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1], scale


def _pairs(device: torch.device) -> torch.Tensor:
    """[256, 2]: the two values of a byte, bf16."""
    values = torch.tensor(_NF4, device=device, dtype=torch.bfloat16)
    return torch.stack((values.repeat_interleave(16), values.repeat(16)), dim=1)
