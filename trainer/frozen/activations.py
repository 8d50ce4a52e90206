"""Gradient checkpointing, with what it keeps on the device or in RAM."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


def checkpointing(model: nn.Module, in_ram: bool = False) -> None:
    """Has a model compute its blocks' activations again in backward, and keep only what goes into a block.

    Args:
        model: of diffusers or transformers; in the latter only while it is in training mode.
        in_ram: keep that in RAM, pinned where there is a GPU. What all blocks share (the prompt, the timestep) stays
            on the device.
    """
    if hasattr(model, "enable_gradient_checkpointing"):
        how = _in_ram if in_ram else partial(checkpoint, use_reentrant=False, preserve_rng_state=_draws(model))
        model.enable_gradient_checkpointing(how)  # type: ignore[operator]
    else:
        how = _in_ram if in_ram else partial(checkpoint, use_reentrant=False)
        model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=how)  # type: ignore[operator]


def _draws(model: nn.Module) -> bool:
    """Whether something is dropped out: then what is computed again must draw the same.

    LoHa and LoKr drop rows of their change, by numbers in a ``rank_dropout`` of their own.
    """
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0) or any(getattr(module, "rank_dropout", {}).values())
        for module in model.modules()
    )


def _in_ram(block: nn.Module, *args: Any) -> Any:
    """Checkpoints a call of a block; of the inputs, those that gradients flow through are kept in RAM."""
    moving = {i: value for i, value in enumerate(args) if isinstance(value, torch.Tensor) and value.requires_grad}
    places, shared = list(moving), [None if i in moving else value for i, value in enumerate(args)]

    def call(*moved: torch.Tensor) -> Any:
        inputs = list(shared)
        for i, value in zip(places, moved, strict=True):
            inputs[i] = value
        return block(*inputs)

    # The hooks see the inputs alone: within the block checkpoint's own hooks keep nothing.
    with saved_tensors_hooks(_to_ram, _from_ram):
        return checkpoint(call, *moving.values(), use_reentrant=False)


def _to_ram(tensor: torch.Tensor) -> tuple[torch.device, torch.Tensor]:
    on_gpu = tensor.is_cuda
    kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
    return tensor.device, kept.copy_(tensor, non_blocking=on_gpu)


def _from_ram(packed: tuple[torch.device, torch.Tensor]) -> torch.Tensor:
    device, kept = packed
    return kept.to(device, non_blocking=True)
