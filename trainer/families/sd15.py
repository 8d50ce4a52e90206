"""Stable Diffusion 1.5 (Rombach et al., arXiv 2112.10752): a UNet on CLIP-L, in 4 latent channels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..weights import Header
from .kinds import unet_traits
from .stable_diffusion import StableDiffusion, TextPart


class SD15(StableDiffusion):
    """The family ``sd15``; see ``base.Family`` for the contract."""

    name = "sd15"
    title = "Stable Diffusion 1.5"
    default_clip_skip = 1
    latent_scale = 0.18215
    targets: Mapping[str, str] = {
        "attention": "to_q, to_k, to_v and to_out of the attention layers (128 modules)",
        "linear": "every linear layer and 1x1 convolution of the transformers (192 modules)",
        "conv": "these, and the convolutions and time projections of the residual blocks and samplers (278 modules)",
    }
    texts: ClassVar[Mapping[str, TextPart]] = {"text_encoder": TextPart("cond_stage_model.transformer.", "lora_te")}
    final_norm = True

    def recognise(self, header: Header) -> bool:
        """By the UNet: 4 channels in, convolutional proj_in, context of 768, no further embedding."""
        if self.description in header.metadata:
            return True
        traits = unet_traits(header)
        if traits is None or traits.in_channels != 4 or traits.linear_projection or traits.embedding is not None:
            return False
        # A folder brings its own configs, so any width will do that fits its text encoder.
        expected = header.configs.get("text_encoder", {}).get("hidden_size", 768)
        return traits.context == expected

    def size_conditioning(
        self, size: tuple[int, int], crop: tuple[int, int], bucket: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """Nothing: this UNet is not told of sizes."""
        return {}

    def tiny(self, path: Path, seed: int, *, prediction: str = "epsilon", zero_terminal_snr: bool = False) -> Path:
        """A UNet of 32 and 64 channels, a text encoder of 2 layers, a small TAESD; 2 MB in fp16."""
        from .sd15_random import write_tiny

        return write_tiny(path, seed, prediction=prediction, zero_terminal_snr=zero_terminal_snr)


FAMILY = SD15()
DESCRIPTION = FAMILY.description


def save_checkpoint(path: Path, *, unet: nn.Module, text_encoder: nn.Module, vae: nn.Module, **options: Any) -> Path:
    """Writes a single-file checkpoint; see ``single_file.save_checkpoint``, which takes the options."""
    from . import single_file

    texts = {"text_encoder": text_encoder}
    return single_file.save_checkpoint(path, FAMILY, unet=unet, texts=texts, vae=vae, **options)
