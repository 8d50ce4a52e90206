"""Applying a LoRA so that what does not fit is an error, and the LORA_MODEL that passes between nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.weight_adapter
import torch

from ...trainer import export
from ...trainer.errors import HostError

MOST_NAMED = 5


class LoraModel(dict[str, torch.Tensor]):
    """Core's LORA_MODEL, a dict of tensors; that it was trained here is in attributes, out of core's way.

    Args:
        tensors: by their names in a file.
        metadata: of the file's header.
        run: id of the run that trained it; may be empty.
        path: the file it was read from.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str] | None = None,
        run: str = "",
        path: Path | None = None,
    ) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata or {})
        self.run = run
        self.path = path


def read(path: Path, run: str = "") -> LoraModel:
    """A LoRA file as LORA_MODEL.

    Raises:
        ExportError: it cannot be read.
    """
    tensors, metadata = export.read(path)
    return LoraModel(tensors, metadata, run, path)


def apply(
    model: Any, clip: Any, lora: Mapping[str, torch.Tensor], strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """MODEL and CLIP (one may be None) with the LoRA; at strength 0 as they were.

    Raises:
        HostError: a key of the LoRA matches nothing, or a weight of it has the wrong shape.
    """
    check_fits(model, clip, lora)
    return _patched(model, clip, lora, strength_model, strength_clip)


def apply_at(
    model: Any, clip: Any, lora: Mapping[str, torch.Tensor], strengths: Sequence[float]
) -> list[tuple[Any, Any]]:
    """MODEL and CLIP (may be None) with the LoRA at each strength. All share the base's weights, and the LoRA's.

    Raises:
        HostError: a key of the LoRA matches nothing, or a weight of it has the wrong shape.
    """
    check_fits(model, clip, lora)
    return [_patched(model, clip, lora, strength, strength) for strength in strengths]


def _patched(
    model: Any, clip: Any, lora: Mapping[str, torch.Tensor], strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, dict(lora), strength_model, strength_clip)
    return (patched if strength_model else model), (patched_clip if strength_clip else clip)


def check_fits(model: Any, clip: Any, lora: Mapping[str, torch.Tensor]) -> None:
    """Whether the LoRA would load wholly.

    ComfyUI itself only logs what it leaves out: a key it does not know, or a weight of another shape.

    Raises:
        HostError: it would not.
    """
    if not lora:
        raise HostError("the LoRA is empty: it has no tensors", "choose another file")
    if model is None and clip is None:
        raise HostError("there is nothing to apply the LoRA to", "wire MODEL, or CLIP for a language model, or both")
    keys = {} if model is None else comfy.lora.model_lora_keys_unet(model.model, {})
    if clip is not None:
        keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    converted = comfy.lora_convert.convert_lora(dict(lora))
    unknown = [name for name in converted if not _is_known(name, keys)]
    if unknown:
        texts = [name for name in unknown if name.startswith(("lora_te", "text_encoder"))]
        if clip is None and len(texts) == len(unknown):
            raise HostError("the LoRA also changes the text encoder, but no CLIP is wired", "wire CLIP into this node")
        if model is None and len(texts) < len(unknown):
            raise HostError(
                f"the LoRA changes the model, but no MODEL is wired: {_some(unknown)}", "wire MODEL into this node"
            )
        raise HostError(
            f"{len(unknown)} of the LoRA's {len(converted)} tensors match nothing in this model: {_some(unknown)}",
            "it was trained for another kind of base model: choose a LoRA for this one",
        )
    weights = {} if model is None else dict(model.model.state_dict())
    if clip is not None:
        weights |= clip.cond_stage_model.state_dict()
    loaded = comfy.lora.load_lora(converted, keys, log_missing=False)
    wrong = [str(key) for key, patch in loaded.items() if not _fits(key, patch, weights)]
    if wrong or not loaded:
        raise HostError(
            f"{len(wrong)} of the LoRA's {len(loaded)} layers have another shape than this model's: {_some(wrong)}",
            "it was trained for another base model: choose a LoRA for this one",
        )


def _is_known(name: str, keys: Mapping[str, Any]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in keys for count in range(1, len(parts)))


def _fits(key: Any, patch: Any, weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether a patch changes its weight, and is not dropped for its shape."""
    name, offset = (key, None) if isinstance(key, str) else (key[0], key[1])
    if name not in weights:
        return False
    shape = list(weights[name].shape)
    if offset is not None:
        shape[offset[0]] = offset[2]
    if isinstance(patch, comfy.weight_adapter.LoRAAdapter):
        up, down, _, middle, _, reshape = patch.weights
        if middle is None and reshape is None:
            outer, inner = up.flatten(1).shape, down.flatten(1).shape
            return outer[1] == inner[0] and outer[0] == shape[0] and inner[1] == math.prod(shape[1:])
    # Every other kind: let ComfyUI compute it on an empty weight; what it drops leaves that as it was.
    function = key[2] if not isinstance(key, str) and len(key) > 2 else None
    before = torch.ones(shape)
    after = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, function)], before.clone(), name)
    return after.shape != before.shape or not torch.equal(after, before)


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"
