"""The encoders of Stable Diffusion: a VAE and one or two CLIP text encoders; see ``base.Encoders``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .clip_text import ClipText

TILE = 512  # pixels


class StableDiffusionEncoders:
    """A VAE and text encoders, in fp32.

    Args:
        vae: a diffusers AutoencoderKL or AutoencoderTiny.
        texts: the text encoders by name; their hidden states are joined along the width, in this order.
        scale: unscaled latents are the VAE's own, divided by this ...
        shift: ... plus this (ComfyUI's ``vae_scale`` and ``vae_shift``).
    """

    def __init__(self, vae: nn.Module, texts: Mapping[str, ClipText], scale: float = 1.0, shift: float = 0.0) -> None:
        self.vae: Any = vae
        self._tiled = False
        self.texts = texts
        self.scale, self.shift = scale, shift
        self.text_models: Mapping[str, nn.Module] = {name: text.model for name, text in texts.items()}

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 4, H/8, W/8], fp32, on the CPU: the mode of the posterior, unscaled."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % 8 or pixels.shape[3] % 8:
            raise ValueError(f"pixels must be [B, 3, H, W] with sides in multiples of 8, not {list(pixels.shape)}")
        self.vae.use_tiling = self._tiled and max(pixels.shape[2:]) > TILE
        with torch.no_grad():
            encoded = self.vae.encode(pixels.to(self._device, torch.float32) * 2.0 - 1.0)
        own = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return own.cpu() / self.scale + self.shift

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, 4, h, w] unscaled -> [B, 3, 8 h, 8 w] in 0..1, fp32, on the CPU."""
        self.vae.use_tiling = self._tiled and 8 * max(latents.shape[2:]) > TILE
        with torch.no_grad():
            own = (latents.to(self._device, torch.float32) - self.shift) * self.scale
            return ((self.vae.decode(own).sample + 1.0) / 2.0).clamp(0.0, 1.0).cpu()

    def encode_text(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """``hidden`` [1, 77 n, D] (and ``pooled``) of each caption, fp32, on the CPU; the empty one is 77 tokens."""
        with torch.no_grad():
            encoded = self.conditioning([self.tokenize(caption) for caption in captions])
        return [{name: tensor.cpu() for name, tensor in entry.items()} for entry in encoded]

    def tokenize(self, caption: str) -> dict[str, torch.Tensor]:
        """The ids [chunks, 77] of a caption, int64, for each text encoder."""
        return {name: text.tokenize(caption) for name, text in self.texts.items()}

    def conditioning(self, tokens: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """``encode_text`` of what ``tokenize`` gave, on the models' device and differentiable."""
        if not tokens:
            return []
        each = [text.conditioning([entry[name] for entry in tokens]) for name, text in self.texts.items()]
        return [_joined(parts) for parts in zip(*each, strict=True)]

    def to(self, device: torch.device | str, *, vae: bool = True, text: bool = True) -> StableDiffusionEncoders:
        """Moves them to a device, in place: all, or the VAE or the text encoders alone."""
        if vae:
            self.vae.to(device)
        for model in self.text_models.values() if text else ():
            model.to(device)
        return self

    def tile(self) -> bool:
        """Has the VAE see what is larger than 512 pixels in tiles that overlap. False: it does already."""
        if self._tiled:
            return False
        self._tiled = True
        self.vae.tile_sample_min_size, self.vae.tile_latent_min_size = TILE, TILE // 8  # its own are up to 1024
        return True

    def drop_text(self) -> None:
        """Lets go of the text encoders: captions can no longer be encoded."""
        self.texts, self.text_models = {}, {}

    @property
    def _device(self) -> torch.device:
        return next(self.vae.parameters()).device


def _joined(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What several text encoders say of one caption, as one; ``pooled`` is of the one that has it."""
    joined = {name: tensor for part in parts for name, tensor in part.items()}
    return joined | {"hidden": torch.cat([part["hidden"] for part in parts], dim=-1)}
