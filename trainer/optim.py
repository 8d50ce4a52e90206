"""The optimizer, and our own learning-rate schedules as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .config import TrainConfig

REWARM = 0.05  # share of an extension's steps over which the rate rises again


def make(config: TrainConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), fused where torch can."""
    parameters = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda", "mps", "xpu") for p in parameters)
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def warmup(config: TrainConfig, total: int) -> int:
    """The warm-up in optimizer steps: as configured, at most a tenth of the run."""
    return min(config.warmup_steps, total // 10)


def rate(config: TrainConfig, step: int, total: int, extended_at: int = 0) -> float:
    """Learning rate of a step.

    Args:
        config: learning_rate, lr_scheduler, warmup_steps.
        step: optimizer steps done so far: the first step has 0.
        total: optimizer steps of the run.
        extended_at: the step at which the run was given a new length; its rate rises again from there.
    """
    warm = warmup(config, total)
    if step < warm:
        factor = (step + 1) / (warm + 1)
    else:
        progress = (step - warm) / max(1, total - warm)
        factor = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        }[config.lr_scheduler]
    if extended_at:
        rewarm = max(1, round(REWARM * (total - extended_at)))
        factor *= min(1.0, (step - extended_at + 1) / (rewarm + 1))
    return config.learning_rate * factor


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value


def state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors, ``<parameter>|<entry>``; ``names`` in the order of the parameters."""
    result: dict[str, torch.Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            result[f"{names[index]}|{key}"] = torch.as_tensor(value)
    return result


def load_state(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: dict[str, torch.Tensor]) -> None:
    """Puts back what ``state`` gave."""
    entries: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        parameter, key = name.rsplit("|", 1)
        entries.setdefault(names.index(parameter), {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
