"""Giving the card to the worker."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import comfy.model_management as management
import torch

from ...trainer.advisor import Room
from ...trainer.memory import ran_out

T = TypeVar("T")
log = logging.getLogger("lora-darkroom")
LITTLE = 2 * 2**30


def make_room(note: Callable[[str], None], work: str = "training") -> None:
    """Unload every model of ComfyUI's; ``note`` takes what the user should know of the memory that is there now."""
    free = _free()
    log.info("%s has %.1f GB free for the %s", device(), free / 2**30, work)
    if keeps_models_on_the_card():
        note(f"ComfyUI was started with --highvram or --gpu-only: its models stay on the card beside the {work}")
    elif free < LITTLE:
        note(f"only {free / 2**30:.1f} GB are free on {device()}: the {work} gives up what does not fit, step by step")


def with_room(encode: Callable[[], T]) -> T:
    """What a model of ComfyUI's encodes; if memory is out, once more when all its models have left the card."""
    try:
        return encode()
    except Exception as error:
        if not ran_out(error):
            raise
    # Here the error is gone, and with it the frames that held what was being computed.
    log.warning("out of memory while encoding: once more, with ComfyUI's models off the card")
    _free()
    return encode()


def room() -> Room:
    """Where a worker will train, and what it has once ComfyUI's models have left."""
    return Room(device(), int(management.get_total_memory(management.get_torch_device())))


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


def _free() -> int:
    """Bytes that are free on ComfyUI's device, once its models are unloaded."""
    management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()
    return int(management.get_free_memory(management.get_torch_device()))
