"""SD1.5-shaped checkpoints with random weights: toy size, small, and full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import random_weights, sd15


def write_tiny(path: Path, seed: int, **options: Any) -> Path:
    """``SD15.tiny``: a UNet of 32 and 64 channels, a text encoder of 2 layers of 32, a TAESD of 8 channels, fp16."""
    tables = random_weights.byte_vocabulary()
    unet = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    texts = {"text_encoder": random_weights.tiny_text_config(tables[0], 32)}
    return random_weights.write(path, sd15.FAMILY, unet, texts, random_weights.TINY_VAE, tables, seed, **options)


def write_random(path: Path, *, full: bool = True, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """A checkpoint that the stock loader of ComfyUI takes, with random weights.

    Args:
        path: of the .safetensors file.
        full: SD1.5's own size with the KL VAE (2.1 GB in fp16), without a describing header, as such files are. Else a
            UNet of one level of SD1.5's first width, the whole CLIP-L and TAESD (300 MB in fp16), with the header.
        dtype: of the weights.
        seed: of the weights.
    """
    unet, text, vae = (random_weights.asset(f"sd15/{part}/config.json") for part in ("unet", "text_encoder", "vae"))
    if not full:
        unet |= {"block_out_channels": [320], "layers_per_block": 1}
        unet |= {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["UpBlock2D"]}
        vae = {}
    tables = random_weights.shipped_tables()
    return random_weights.write(
        path, sd15.FAMILY, unet, {"text_encoder": text}, vae, tables, seed, dtype=dtype, describe=not full
    )
