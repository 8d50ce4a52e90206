"""The VAEs of Stable Diffusion: the KL one, and TAESD's architecture, from a single file or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError
from ..weights import Header, empty_weights, fill, read_tensors, variant
from . import ldm


def from_file(header: Header, described: Mapping[str, Any], usual: Mapping[str, Any]) -> tuple[nn.Module, float, float]:
    """The VAE of a single file, in fp32, frozen.

    Args:
        header: of the file.
        described: what the file's own header says of its VAE; empty if it says nothing.
        usual: the config of the family's KL VAE.

    Returns:
        the VAE; unscaled latents are its own, divided by the second, plus the third.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = read_tensors(header, ldm.VAE, torch.float32)
    config = {k: v for k, v in described.items() if k not in ("type", "vae_scale", "vae_shift", "latent_rgb")}
    if any(name.startswith("taesd_") for name in state):
        # As in ComfyUI the tensors count; the description only repeats them.
        scale, shift = float(state.pop("vae_scale", 1.0)), float(state.pop("vae_shift", 0.0))
        with empty_weights():
            vae = AutoencoderTiny.from_config(config)
        return fill(vae, ldm.from_tiny_vae(state), "VAE", header.path), scale, shift  # type: ignore[arg-type]
    config = config or dict(usual)
    # Files of the whole training carry what only that needs.
    state = {ldm.VAE + n: t for n, t in state.items() if not n.startswith(("loss.", "model_ema."))}
    with empty_weights():
        vae = AutoencoderKL.from_config(config)
    converted = convert_ldm_vae_checkpoint(state, config)
    return fill(vae, converted, "VAE", header.path), 1.0, 0.0  # type: ignore[arg-type]


def from_folder(header: Header, latent_scale: float) -> tuple[nn.Module, float, float]:
    """The VAE of a diffusers folder, in fp32, frozen; returned as by ``from_file``.

    Args:
        header: of the folder.
        latent_scale: the family's.
    """
    import diffusers

    name = header.configs["vae"].get("_class_name", "")
    classes = {"AutoencoderKL": diffusers.AutoencoderKL, "AutoencoderTiny": diffusers.AutoencoderTiny}
    if name not in classes:
        raise BaseModelError(f"{header.path}: unknown VAE {name or None}", "use AutoencoderKL")
    # The library renames the attention weights of old folders.
    vae, info = classes[name].from_pretrained(
        str(header.path / "vae"),
        local_files_only=True,
        use_safetensors=True,
        variant=variant(header, "vae"),
        output_loading_info=True,
    )
    if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        message = f"{header.path}: its VAE does not fit its config ({wrong[0]})"
        raise BaseModelError(message, "use an unmodified model")
    # The denoiser sees the VAE's latents times the VAE's own factor, which old folders leave to the library's default.
    return vae.float().requires_grad_(False).eval(), latent_scale / float(vae.config.scaling_factor), 0.0
