"""What a model family is: the contract that every file of this package fulfils, and the shapes that pass through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from ..weights import Header


class Encoders(Protocol):
    """A family's own VAE and text encoders, in fp32.

    Images, latents and ``encode_text`` are without a graph and end on the CPU, whatever device computed them. To train
    the text encoders, ``tokenize`` and ``conditioning`` do what ``encode_text`` does, in two steps and with a graph.
    """

    text_models: Mapping[str, nn.Module]
    """The text encoders, frozen until someone trains them: ``text_encoder``, in SDXL ``text_encoder_2`` too."""

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, H/8, W/8], fp32: the mode of the posterior, unscaled.

        Raises:
            ValueError: a side is not a multiple of the family's ``downsample``.
        """
        ...

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] unscaled -> [B, 3, H, W] in 0..1."""
        ...

    def encode_text(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """What the denoiser is conditioned on, for each caption: ``hidden`` [1, tokens, D]; SDXL: ``pooled``; fp32."""
        ...

    def tokenize(self, caption: str) -> dict[str, torch.Tensor]:
        """The ids [chunks, 77] of a caption, int64, for each of ``text_models``."""
        ...

    def conditioning(self, tokens: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """``encode_text`` of what ``tokenize`` gave, on the models' device and differentiable."""
        ...

    def to(self, device: torch.device | str, *, vae: bool = True, text: bool = True) -> Encoders:
        """Moves them to a device, in place: all, or the VAE or the text encoders alone."""
        ...

    def tile(self) -> bool:
        """Has the VAE see a large picture in tiles from now on: less memory, other numbers. False: it does already."""
        ...

    def drop_text(self) -> None:
        """Lets go of the text encoders: captions can no longer be encoded."""
        ...


class Family(Protocol):
    """One model family. It owns only what differs between families.

    It never draws a timestep, computes a loss or steps an optimizer.
    """

    name: str
    """The name of its file, such as ``sd15``."""
    title: str
    """Its name for people."""
    default_clip_skip: int
    """Which layer of the text encoder is taken, counted from the end (1 the last) when nobody says."""
    latent_channels: int
    latent_scale: float
    latent_shift: float
    """The denoiser sees ``(unscaled - latent_shift) * latent_scale``."""
    downsample: int
    """Pixels a latent, along a side."""
    targets: Mapping[str, str]
    """What LoRA layers may be put on: ``attention``, ``linear``, ``conv`` -> what that means, in words."""

    def recognise(self, header: Header) -> bool:
        """Whether a file or folder is a base model of this family, by its keys and shapes alone."""
        ...

    def prediction(self, header: Header) -> tuple[str, bool]:
        """What a base model's denoiser predicts, by the marks in its file or its folder's scheduler.

        Returns:
            ``epsilon`` or ``v_prediction``, and whether it was trained with zero terminal SNR.

        Raises:
            BaseModelError: it predicts something else (an EDM variant, a flow); the message names it.
        """
        ...

    def noise_schedule(self, zero_terminal_snr: bool = False) -> torch.Tensor:
        """The cumulative product of the alphas, [1000], fp32, falling.

        Args:
            zero_terminal_snr: rescaled until the last step is all noise (Lin et al., arXiv 2305.08891), save for the
                4.897e-8 that ComfyUI leaves, so that noise levels stay finite.
        """
        ...

    def load_model(self, path: Path, dtype: torch.dtype) -> nn.Module:
        """The denoiser, frozen, in eval mode, on the CPU.

        Raises:
            BaseModelError: the file is missing, broken, or not of this family.
        """
        ...

    def load_encoders(self, path: Path, *, clip_skip: int | None = None) -> Encoders:
        """The VAE and the text encoders, on the CPU.

        Args:
            path: the base model.
            clip_skip: which layer of the text encoders is taken, counted from the end; None: ``default_clip_skip``.

        Raises:
            BaseModelError: the file is missing, broken, not of this family, holds no encoders, or these have fewer
                layers than ``clip_skip`` asks for.
        """
        ...

    def size_conditioning(
        self, size: tuple[int, int], crop: tuple[int, int], bucket: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """What the denoiser is told of a picture's size, for ``predict``; empty where it is told nothing.

        Args:
            size: (width, height) of the picture before it was resized.
            crop: (left, top) of what is seen of it, in the resized picture.
            bucket: (width, height) of what is seen.

        Returns:
            each [1, ...], fp32. SDXL: ``size_ids`` [1, 6], heights before widths.
        """
        ...

    def predict(
        self,
        model: nn.Module,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The denoiser's prediction.

        Args:
            model: from ``load_model``, possibly with adapters.
            noisy: [B, C, h, w], noised scaled latents.
            timestep: [B], int64.
            conditioning: what ``encode_text`` and ``size_conditioning`` give, each [B, ...].

        Returns:
            [B, C, h, w] in the denoiser's dtype.
        """
        ...

    def is_target(self, module_name: str, module: nn.Module, which: str) -> bool:
        """Whether a module of the denoiser gets a LoRA layer; ``which`` is a key of ``targets``."""
        ...

    def text_target(self, module_name: str, module: nn.Module) -> bool:
        """Whether a module of a text encoder gets a LoRA layer when text encoders are trained."""
        ...

    def export_key(self, module_name: str, part: str = "unet") -> str:
        """The module's name in an exported LoRA, without the suffix (``.lora_down.weight`` ...).

        Args:
            module_name: in the denoiser, or in a text encoder.
            part: ``unet`` for the denoiser, else a key of ``Encoders.text_models``.
        """
        ...

    def sample(
        self,
        model: nn.Module,
        conditioning: Mapping[str, torch.Tensor],
        negative: Mapping[str, torch.Tensor],
        *,
        width: int,
        height: int,
        steps: int,
        guidance: float,
        seed: int,
        prediction: str = "epsilon",
        zero_terminal_snr: bool = False,
    ) -> torch.Tensor:
        """Draws one picture with classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

        Args:
            model: from ``load_model``, possibly with adapters, on any device.
            conditioning: of the prompt, as ``encode_text`` gives it; what is told of sizes is added here.
            negative: of the negative prompt.
            width: in pixels, a multiple of ``downsample``.
            height: in pixels, likewise.
            steps: evaluations of the denoiser.
            guidance: 1 is no guidance.
            seed: the picture is a function of it.
            prediction: what the model predicts, as ``prediction`` says.
            zero_terminal_snr: likewise.

        Returns:
            [1, C, h, w], fp32, on the CPU, unscaled.
        """
        ...

    def tiny(self, path: Path, seed: int, *, prediction: str = "epsilon", zero_terminal_snr: bool = False) -> Path:
        """Writes a base model of this family at toy size with random weights: a single file, for tests.

        The same seed writes the same bytes. Returns the path.
        """
        ...
