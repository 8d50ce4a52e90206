"""Which device, and which number format on it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import torch

from .config import Precision, TrainConfig
from .errors import ConfigError, UserError
from .launch import launched

if TYPE_CHECKING:
    from accelerate import Accelerator

_DEVICE = "ACCELERATE_TORCH_DEVICE"
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SMALL, LARGE = 64, 640  # channels of the trials
ON_WINDOWS = "are not possible on Windows: use WSL, or start one"
HOPELESS = 4.0  # times slower than fp32
MARGIN = 1.1  # what another format than fp32 has to win by
DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve(config: TrainConfig) -> torch.device:
    """The device of a config; see ``named``."""
    return named(config.device)


def named(name: str) -> torch.device:
    """The device of a name as torch has them; ``auto`` takes the first GPU there is, else the CPU.

    Of several processes on a machine each has a card of its own: the first the first one, and so on.

    Raises:
        ConfigError: the device is not there.
    """
    place = launched()
    if place.local_world > 1 and name.startswith("cuda:"):
        raise ConfigError([f"device: {name} is one card, and there are {place.local_world} processes; expected cuda"])
    if place.local_world > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{place.local_rank}"
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError([f"device: {name} is not there (torch sees {torch.cuda.device_count()} GPUs)"])
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device: mps is not there"])
    if device.type == "xpu" and (device.index or 0) >= torch.xpu.device_count():
        raise ConfigError([f"device: {name} is not there"])
    return device


def card_name(device: torch.device) -> str:
    """What a device is called, such as ``NVIDIA GeForce RTX 3090``; empty where it has no name of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.xpu.get_device_name(device) if device.type == "xpu" else ""


def check_several(name: str, count: int) -> None:
    """Makes sure that this machine can train on as many devices as are asked for.

    Args:
        name: of the device, as ``named`` takes it.
        count: of devices. On a CPU each is a process of its own, at most one a core.

    Raises:
        UserError: it has fewer, or none that can train together.
    """
    if count == 1:
        return
    if sys.platform == "win32":
        raise UserError(f"devices: {count} {ON_WINDOWS}")
    kind = named(name.partition(":")[0]).type
    there, what = 1, f"{kind} device"
    if kind == "cuda":
        there, what = torch.cuda.device_count(), "NVIDIA card"
    elif kind == "cpu":
        there, what = os.cpu_count() or 1, "CPU core"
    if count > there:
        has = f"{there} {what}{'s' * (there != 1)}"
        cure = f"set devices to {f'at most {there}' if there > 1 else 1}"
        raise UserError(f"devices: {count} were asked for, and this machine has {has} to train on", cure)


def precision(config: TrainConfig, device: torch.device, former: str = "") -> tuple[Precision, str]:
    """The number format to train in, and a line that says why it is another than configured (or nothing).

    Args:
        config: mixed_precision.
        device: to train on.
        former: what the run was trained in so far; empty for a new one.
    """
    wanted = config.mixed_precision
    if former in DTYPES and wanted in ("auto", "bf16"):
        wanted = former  # a run stays with what it began in, where the device can do that
    elif wanted == "auto":
        return fastest(device)
    elif wanted == "bf16" and device.type == "cpu":
        slower = _seconds(device, "bf16", SMALL) / _seconds(device, "no", SMALL)
        if slower > HOPELESS:
            why = f"mixed_precision: bf16 is {slower:.0f} times slower than fp32 on this CPU; training in fp32"
            return "no", why
    if wanted == "fp16" and device.type == "cpu":
        return "no", "mixed_precision: fp16 cannot be trained on a CPU; training in fp32"
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16", "mixed_precision: this card has no bf16; training in fp16"
    return wanted, ""  # type: ignore[return-value]


def fastest(device: torch.device) -> tuple[Precision, str]:
    """The fastest number format of a device, by a trial of about a second, and a line that says so."""
    kinds: list[Precision] = ["no", "bf16"]
    if device.type == "cuda":
        kinds = ["no", "bf16", "fp16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["no", "fp16"]
    # Without instructions for it bf16 is some hundred times slower: a small trial sorts that out.
    small = {kind: _seconds(device, kind, SMALL) for kind in kinds}
    kinds = [kind for kind in kinds if small[kind] < HOPELESS * small["no"]]
    large = {kind: _seconds(device, kind, LARGE) for kind in kinds}
    best = min(kinds, key=lambda kind: large[kind] * (1 if kind == "no" else MARGIN))
    told = ", ".join(f"{'fp32' if kind == 'no' else kind} {1000 * large[kind]:.1f} ms" for kind in kinds)
    return best, f"mixed_precision: auto is {'fp32' if best == 'no' else best} here ({told})"


def _seconds(device: torch.device, kind: Precision, size: int) -> float:
    """The time of a matrix product and a convolution of that many channels, the best of three."""
    dtype = DTYPES[kind]
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    picture = torch.ones(1, size, 32, 32, device=device, dtype=dtype)
    kernel = torch.ones(size, size, 3, 3, device=device, dtype=dtype)
    times = []
    for _ in range(4):  # the first one prepares the kernels
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        result = (matrix @ matrix).sum() + torch.conv2d(picture, kernel, padding=1).sum()
        result.item()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def onto(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor on a device. Onto a card out of pinned memory: else the copy waits for all that it has to compute."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def accelerate(device: torch.device, mixed: Precision) -> Accelerator:
    """An Accelerator on a device and in a number format, whatever an earlier run of this process had.

    It knows of this process alone, even where several train: ``ranks`` adds their gradients up. That works for whatever
    part of a model is called, where DistributedDataParallel sees only calls of the model itself.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # recordings and events are made on the one that is chosen so
    # It remembers the first one of a process, and refuses another number format.
    AcceleratorState._reset_state(reset_partial_state=True)
    before = {name: os.environ.pop(name) for name in (_DEVICE, *_LAUNCHED) if name in os.environ}
    if device.index is not None:
        os.environ[_DEVICE] = str(device)
    elif _DEVICE in before:
        os.environ[_DEVICE] = before[_DEVICE]
    try:
        return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")
    finally:
        os.environ.pop(_DEVICE, None)
        os.environ.update(before)
