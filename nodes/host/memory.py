"""Giving the card to the worker."""

from __future__ import annotations

import gc

import comfy.model_management as management
import torch


def free() -> int:
    """Unload every model of ComfyUI's; returns the bytes that are free on its device afterwards."""
    management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()
    return int(management.get_free_memory(management.get_torch_device()))


def device() -> str:
    """The device that ComfyUI computes on, as the trainer names it: ``cpu``, ``cuda:0``, ``mps``, ``xpu:0``."""
    found = management.get_torch_device()
    if found.type in ("cpu", "mps"):
        return found.type
    index = found.index if found.index is not None else torch.accelerator.current_device_index()
    return f"{found.type}:{index}"


def keeps_models_on_the_card() -> bool:
    """Whether unloading frees nothing, because ComfyUI was told to keep its models on the card."""
    return device() != "cpu" and management.unet_offload_device() == management.get_torch_device()
