"""SDXL-shaped checkpoints with random weights: toy size, small, and full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import random_weights, sdxl


def write_tiny(path: Path, seed: int, **options: Any) -> Path:
    """``SDXL.tiny``: a UNet of 32 and 64 channels, text encoders of 2 layers of 32 and 48, a TAESD of 8, fp16.

    ComfyUI's own loader does not take it: it knows SDXL by a first width of 320 and a context of 2048.
    """
    tables = random_weights.byte_vocabulary()
    texts = {
        "text_encoder": random_weights.tiny_text_config(tables[0], 32),
        "text_encoder_2": random_weights.tiny_text_config(tables[0], 48, hidden_act="gelu"),
    }
    unet = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 32 + 48,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 48 + 6 * 32,
    }
    return random_weights.write(path, sdxl.FAMILY, unet, texts, random_weights.TINY_VAE, tables, seed, **options)


def write_random(
    path: Path, *, full: bool = True, dtype: torch.dtype = torch.float16, seed: int = 0, **options: Any
) -> Path:
    """A checkpoint that the stock loader of ComfyUI takes, with random weights.

    Args:
        path: of the .safetensors file.
        full: SDXL's own size with the KL VAE (6.9 GB in fp16), without a describing header, as such files are. Else a
            UNet of three levels of SDXL's first width with Segmind Vega's depths, by which ComfyUI knows it, both whole
            text encoders and TAESD (1.9 GB in fp16), with the header.
        dtype: of the weights.
        seed: of the weights.
        options: ``prediction`` and ``zero_terminal_snr``.
    """
    unet, text, second, vae = (
        random_weights.asset(f"sdxl/{part}/config.json") for part in ("unet", "text_encoder", "text_encoder_2", "vae")
    )
    if not full:
        unet |= {"block_out_channels": [320, 320, 320], "attention_head_dim": [5, 5, 5]}
        unet |= {"transformer_layers_per_block": [1, 1, 2]}
        vae = {}
    texts = {"text_encoder": text, "text_encoder_2": second}
    options = {"dtype": dtype, "describe": not full, **options}
    return random_weights.write(path, sdxl.FAMILY, unet, texts, vae, random_weights.shipped_tables(), seed, **options)
