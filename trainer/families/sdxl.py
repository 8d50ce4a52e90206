"""Stable Diffusion XL (Podell et al., arXiv 2307.01952) and its line: Illustrious, NoobAI, Pony, SSD-1B, Vega, KOALA.

A larger UNet on CLIP-L and CLIP-G (penultimate layers without the final norm), which is also told CLIP-G's pooled
output and six numbers of the picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..weights import Header
from . import ldm
from .kinds import UNetTraits, unet_traits
from .stable_diffusion import StableDiffusion, TextPart


class SDXL(StableDiffusion):
    """The family ``sdxl``; see ``base.Family`` for the contract."""

    name = "sdxl"
    title = "Stable Diffusion XL"
    default_clip_skip = 2
    latent_scale = 0.13025
    targets: Mapping[str, str] = {
        "attention": "to_q, to_k, to_v and to_out of the attention layers (560 modules)",
        "linear": "every linear layer of the transformers (722 modules)",
        "conv": "these, and the convolutions and time projections of the residual blocks and samplers (788 modules)",
    }
    texts: ClassVar[Mapping[str, TextPart]] = {
        "text_encoder": TextPart("conditioner.embedders.0.transformer.", "lora_te1"),
        "text_encoder_2": TextPart("conditioner.embedders.1.model.", "lora_te2", projected=True, pad=0),
    }
    final_norm = False

    def recognise(self, header: Header) -> bool:
        """By the UNet: 4 channels in, linear proj_in, context of 2048, 2816 embedded beside the timestep."""
        if self.description in header.metadata:
            return True
        traits = unet_traits(header)
        if traits is None or traits.in_channels != 4 or not traits.linear_projection or traits.embedding is None:
            return False
        # A folder brings its own configs, so any width will do that fits its text encoders.
        if all(name in header.configs for name in self.texts):
            return traits.context == sum(header.configs[name].get("hidden_size", 0) for name in self.texts)
        return (traits.context, traits.embedding) == (2048, 2816)

    def size_conditioning(
        self, size: tuple[int, int], crop: tuple[int, int], bucket: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """``size_ids`` [1, 6]: original height and width, the crop's top and left, height and width of the target."""
        ids = [number for width, height in (size, crop, bucket) for number in (height, width)]
        return {"size_ids": torch.tensor([ids], dtype=torch.float32)}

    def further(self, conditioning: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, Any]:
        """The pooled output, and the sizes, which stay in fp32: bf16 has no 1025."""
        pooled, sizes = conditioning["pooled"].to(dtype), conditioning["size_ids"].float()
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    def unet_config(self, header: Header, traits: UNetTraits) -> dict[str, Any]:
        """The config; a single file without a description may be one of SDXL's smaller relatives."""
        config = self.config(header, "unet")
        if traits.ldm and self.description not in header.metadata:
            names = (name for name in header.tensors if name.startswith(traits.prefix))
            config |= ldm.unet_layout({name[len(traits.prefix) :]: header.tensors[name].shape for name in names})
        return config

    def tiny(self, path: Path, seed: int, *, prediction: str = "epsilon", zero_terminal_snr: bool = False) -> Path:
        """A UNet of 32 and 64 channels, two text encoders of 2 layers, a small TAESD; 2 MB in fp16."""
        from .sdxl_random import write_tiny

        return write_tiny(path, seed, prediction=prediction, zero_terminal_snr=zero_terminal_snr)


FAMILY = SDXL()
