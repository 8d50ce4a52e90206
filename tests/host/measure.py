"""Comparing what the server computed with what we compute."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from tests.host.server import ComfyServer


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def run_id(outputs: dict[str, Any]) -> str:
    """The run's id, as Train LoRA shows it."""
    (text,) = outputs["train"]["text"]
    (found,) = re.findall(r"^run ([0-9a-f]{12})$", text, re.MULTILINE)
    return found


def runs(comfy: ComfyServer) -> Path:
    """Where the server keeps its runs."""
    return comfy.base / "user" / "__lora_darkroom" / "runs"
