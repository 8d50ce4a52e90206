"""Pictures of latents on the node while a worker holds the card."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import latent_preview
import torch
from PIL import Image
from safetensors.torch import load_file

from ...trainer.files import write_bytes

log = logging.getLogger("lora-darkroom")
SMALL_VAE = 20 * 2**20
QUALITY = 90


def load(path: Path) -> torch.Tensor:
    """The latents of a sample's file, [1, C, h, w], unscaled."""
    return load_file(path)["latents"]


def keep(path: Path, picture: Image.Image | None, suffix: str = "") -> None:
    """Keep a sample's picture beside its latents, for the page; one that cannot be kept does not end a training.

    Args:
        path: the latents' file.
        picture: None: there is none.
        suffix: of its name; what is there already stays.
    """
    file = path.with_name(f"{path.stem}{suffix}.webp")
    if picture is None or file.exists():
        return
    data = io.BytesIO()
    try:
        picture.save(data, "WEBP", quality=QUALITY, method=2)
        write_bytes(file, data.getvalue())
    except OSError as error:
        log.warning("the picture of %s is not kept: %s", path.name, error)


def of_pixels(pixels: torch.Tensor) -> Image.Image:
    """The first of [N, H, W, 3] in 0..1."""
    return Image.fromarray(pixels[0].clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy())


def of_file(path: Path, model: Any, vae: Any) -> Image.Image | None:
    """A picture of a sample's file; None where there is none to show. A preview that fails does not end a training."""
    try:
        return of_latents(load(path), model, vae)
    except Exception as error:
        log.warning("no preview of %s: %s", path.name, error)
        return None


def of_latents(latents: torch.Tensor, model: Any, vae: Any) -> Image.Image | None:
    """A picture of unscaled latents: by the VAE where it is tiny, else by ComfyUI's latent preview, on the CPU.

    None where ComfyUI was told to show no previews.
    """
    size = sum(p.numel() * p.element_size() for p in vae.first_stage_model.parameters())
    if size < SMALL_VAE:
        return of_pixels(vae.decode(latents))
    form = model.model.latent_format
    previewer = latent_preview.get_previewer(torch.device("cpu"), form)
    if previewer is None:
        return None
    picture = previewer.decode_latent_to_preview(form.process_in(latents))
    if not isinstance(picture, Image.Image):
        return None
    return picture.resize((latents.shape[-1] * 8, latents.shape[-2] * 8), Image.Resampling.BICUBIC)
