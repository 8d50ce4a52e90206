"""A custom node for tests only: with --cpu, ComfyUI decides as it does on a card under a memory flag.

--lowvram and --highvram exclude --cpu. Here their state is set afterwards, the free memory is a figure, and models are
loaded as onto a card: what does not fit stays behind, and its patches are made when it is used.
"""

from __future__ import annotations

import os
from typing import Any

import comfy.model_management as management

STATE = os.environ["DARKROOM_VRAM_STATE"]
FREE = float(os.environ["DARKROOM_FREE_GB"]) * 2**30
load_models = management.load_models_gpu
is_cpu = management.is_device_cpu


def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
    """The figure, on whatever device."""
    return (FREE, 0.0) if torch_free_too else FREE


def load_models_gpu(*args: Any, **kwargs: Any) -> None:
    """Load, with a device that is not known to be the CPU."""
    management.is_device_cpu = lambda device: False
    try:
        load_models(*args, **kwargs)
    finally:
        management.is_device_cpu = is_cpu


management.vram_state = management.VRAMState[STATE]
management.get_free_memory = get_free_memory
management.load_models_gpu = load_models_gpu
NODE_CLASS_MAPPINGS: dict[str, Any] = {}
