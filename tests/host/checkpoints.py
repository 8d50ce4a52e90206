"""Checkpoints with random weights that the stock loader takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer.families import ldm, sd15_random, sdxl_random

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


class Parts(NamedTuple):
    """The names, in the loaders for these, of the files that hold a checkpoint's parts."""

    unet: str
    texts: tuple[str, ...]
    vae: str


def split(checkpoint: Path, base: Path, texts: Mapping[str, str], *, described: bool) -> Parts:
    """Write the parts of a checkpoint as files of their own, under the names that such files have.

    Args:
        checkpoint: a checkpoint whose VAE is a TAESD.
        base: of the server.
        texts: a text encoder's name -> what its weights' names begin with.
        described: whether the UNet's file keeps the header that tells its config.
    """
    prefixes = {"diffusion_models/": ldm.UNET, "vae/": ldm.VAE}
    prefixes |= {f"text_encoders/{name} of ": prefix for name, prefix in texts.items()}
    with safe_open(checkpoint, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata()
        for place, prefix in prefixes.items():
            unet = prefix == ldm.UNET
            tensors = {n.removeprefix(prefix): file.get_tensor(n) for n in names if n.startswith(prefix)}
            if unet:  # whether it predicts v
                tensors |= {mark: file.get_tensor(mark) for mark in names if "." not in mark}
            target = base / "models" / f"{place}{checkpoint.name}"
            target.parent.mkdir(exist_ok=True)
            save_file(tensors, target, metadata if unet and described else None)
    return Parts(checkpoint.name, tuple(f"{name} of {checkpoint.name}" for name in texts), checkpoint.name)
