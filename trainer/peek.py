"""What a base model's file is, from its header alone and in milliseconds: for an estimate, before anything is loaded.

``families.detect`` is the one that decides; this only has to agree with it on files that can be trained.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from .errors import BaseModelError

_MAX_HEADER = 100_000_000
_PREFIXES = ("model.diffusion_model.", "")
_EMBEDDING = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
_FAMILIES = ("sd15", "sdxl")
_LATENT_SCALE = 8


class Peek(NamedTuple):
    """What a base model is.

    Args:
        family: a name of ``families``.
        parameters: weights of its denoiser.
        side: of the square pictures that it draws, in pixels, where its file says so; 0: as its family does.
        flow: of a language model: numbers that each token has in all blocks together, layers x width.
        vocabulary: of a language model: how many different tokens there are.
    """

    family: str
    parameters: int
    side: int = 0
    flow: int = 0
    vocabulary: int = 0


def peek(path: Path) -> Peek:
    """The family and size of a base model: a safetensors file, or a diffusers folder.

    Raises:
        BaseModelError: it cannot be read, or is neither Stable Diffusion 1.5 nor SDXL.
    """
    header = _folder(path) if path.is_dir() else _header(path)
    described = header.pop("__metadata__", {})
    said = next((family for family in _FAMILIES if f"darkroom.{family}" in described), "")
    for prefix in _PREFIXES:
        shapes = {name[len(prefix) :]: t["shape"] for name, t in header.items() if name.startswith(prefix)}
        context = next((shape[-1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight")), 0)
        if not context:
            continue
        embedding = next((shapes[name][-1] for name in _EMBEDDING if name in shapes), 0)
        parameters = sum(prod(shape) for name, shape in shapes.items() if name.endswith((".weight", ".bias")))
        by_shape = {(768, 0): "sd15", (2048, 2816): "sdxl"}.get((context, embedding), "")
        if said or by_shape:
            return Peek(said or by_shape, parameters, _side(described, said))
        break
    raise BaseModelError(f"{path.name} is neither a Stable Diffusion 1.5 nor an SDXL model", "choose one of them")


def described(path: Path, family: str) -> dict[str, Any]:
    """What a file that describes itself says (see ``families.stable_diffusion``); empty for any other.

    Raises:
        BaseModelError: it is no such file.
    """
    text = _header(path).get("__metadata__", {}).get(f"darkroom.{family}", "{}")
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise BaseModelError(f"{path.name}: its darkroom.{family} is no JSON object", "write the file again") from error


def _side(described: dict[str, Any], family: str) -> int:
    """The pictures' side, of a file that describes itself."""
    try:
        return int(json.loads(described[f"darkroom.{family}"])["unet"]["sample_size"]) * _LATENT_SCALE
    except (KeyError, TypeError, ValueError):
        return 0


def _folder(path: Path) -> dict[str, Any]:
    """The tensors of a folder's denoiser."""
    found = [_header(file) for file in sorted((path / "unet").glob("*.safetensors"))]
    return {name: tensor for header in found for name, tensor in header.items() if name != "__metadata__"}


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError("no header")
            header = json.loads(file.read(length))
            return {name: value for name, value in header.items() if isinstance(value, dict)}
    except (OSError, ValueError, AttributeError, struct.error) as error:
        raise BaseModelError(f"{path.name} is not a safetensors file that can be read", "choose another one") from error
