"""Checkpoints with random weights that the stock loader takes."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.families.sd15_random import write_random

SD15 = "random sd15 \u00fc.safetensors"


def add_random_sd15(base: Path) -> Path:
    """Put a small SD1.5-shaped checkpoint among a server's checkpoints: one level of SD1.5's width, all of CLIP-L."""
    file = base / "models" / "checkpoints" / SD15
    if not file.exists():
        write_random(file, full=False, dtype=torch.float16, seed=3)
    return file
