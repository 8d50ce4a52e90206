"""Strengths by block: a LoRA whose change is scaled in each block of the model, exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import HostError, LoraFileError
from ..lorafile import FileLayer, named
from .files import Layers
from .inspection import blocks_of


def read_strengths(text: str, layers: Layers) -> dict[str, float]:
    """Strengths by block, from lines such as ``mid: 0.5``; a block that is not named keeps its own.

    Raises:
        HostError: a line is no block and number, names a block that the LoRA does not have, or one twice.
    """
    there = blocks_of(layers)
    found: dict[str, float] = {}
    for line in filter(None, map(str.strip, re.split(r"[\n,;]", text))):
        match = re.fullmatch(r"(.+?)\s*[:=]\s*(\S+)", line)
        try:
            name, strength = " ".join(match[1].lower().split()) if match else "", float(match[2] if match else "nan")
        except ValueError:
            name, strength = "", 0.0
        if not name or not abs(strength) <= 100:
            raise HostError(f"strengths: {line!r} is no block and strength", "write a line such as mid: 0.5")
        if name not in there:
            raise HostError(f"strengths: the LoRA has no block {name!r}", f"its blocks are: {', '.join(there)}")
        if name in found:
            raise HostError(f"strengths: the block {name!r} is there twice", "keep one")
        found[name] = strength
    return found


def scaled(layers: Layers, strengths: Mapping[str, float], source: str = "the LoRA") -> Layers:
    """A LoRA whose blocks count as much as given, as if each had been applied at that strength. At 0 they are left out.

    The scale is put into alpha, and where a layer has none that counts (a LoKr of two full matrices) into the first
    matrix.

    Raises:
        LoraFileError: nothing is left, or a DoRA is to be scaled, which needs the base model's own weights.
    """
    blocks = blocks_of(layers)
    factors = {key: strengths.get(name, 1.0) for name, keys in blocks.items() for key in keys}
    fixed = [key for key, factor in factors.items() if layers[key].method == "dora" and factor not in (0.0, 1.0)]
    if fixed:
        raise LoraFileError(
            f"{source}: {len(fixed)} DoRA layers cannot be scaled by block ({named(fixed)}): how much of a DoRA is a "
            "half depends on the base model's own weights",
            "use 0 or 1 for their blocks, and Apply LoRA's strength for the whole",
        )
    result = {key: _times(layer, factors[key]) for key, layer in layers.items() if factors[key]}
    if not result:
        raise LoraFileError(f"{source}: with these strengths nothing of it is left", "leave one block above 0")
    return result


def _times(layer: FileLayer, factor: float) -> FileLayer:
    if factor == 1:
        return layer
    if layer.rank is not None:
        return FileLayer(layer.key, layer.parts, (layer.rank if layer.alpha is None else layer.alpha) * factor)
    first = layer.parts["lokr_w1"].float() * factor
    return FileLayer(layer.key, {**layer.parts, "lokr_w1": first}, layer.alpha)
