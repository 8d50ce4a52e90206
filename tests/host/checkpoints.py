"""Checkpoints with random weights that the stock loader takes."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.families import sd15_random, sdxl_random

SDXL = "random xl \u00fc.safetensors"
SD15 = "random sd15 \u00fc.safetensors"


def add_random_sd15(base: Path) -> Path:
    """Put a small SD1.5-shaped checkpoint among a server's checkpoints: one level of SD1.5's width, all of CLIP-L."""
    file = base / "models" / "checkpoints" / SD15
    if not file.exists():
        sd15_random.write_random(file, full=False, dtype=torch.float16, seed=3)
    return file


def add_random_sdxl(base: Path) -> Path:
    """Put an SDXL-shaped checkpoint among a server's: three levels of SDXL's width, both text encoders whole."""
    file = base / "models" / "checkpoints" / SDXL
    if not file.exists():
        sdxl_random.write_random(file, full=False, prediction="v_prediction", zero_terminal_snr=True, seed=3)
    return file
