"""Which device, and which number format on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from .config import Precision, TrainConfig
from .errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

_DEVICE = "ACCELERATE_TORCH_DEVICE"
DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve(config: TrainConfig) -> torch.device:
    """The device of a config; ``auto`` takes the first GPU there is, else the CPU.

    Raises:
        ConfigError: the device is not there.
    """
    if config.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError([f"device: {config.device} is not there (torch sees {torch.cuda.device_count()} GPUs)"])
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device: mps is not there"])
    if device.type == "xpu" and (device.index or 0) >= torch.xpu.device_count():
        raise ConfigError([f"device: {config.device} is not there"])
    return device


def precision(config: TrainConfig, device: torch.device) -> tuple[Precision, str]:
    """The number format to train in, and a line that says why it is another than configured (or nothing)."""
    wanted = config.mixed_precision
    if wanted == "fp16" and device.type == "cpu":
        return "no", "mixed_precision: fp16 cannot be trained on a CPU; training in fp32"
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16", "mixed_precision: this card has no bf16; training in fp16"
    return wanted, ""


def accelerate(device: torch.device, mixed: Precision) -> Accelerator:
    """An Accelerator on a device and in a number format, whatever an earlier run of this process had."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # It remembers the first one of a process, and refuses another number format.
    AcceleratorState._reset_state(reset_partial_state=True)
    before = os.environ.get(_DEVICE)
    if device.index is not None:
        os.environ[_DEVICE] = str(device)
    try:
        return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")
    finally:
        if before is not None:
            os.environ[_DEVICE] = before
        else:
            os.environ.pop(_DEVICE, None)
