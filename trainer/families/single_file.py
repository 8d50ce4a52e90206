"""Writing a base model as a single file, under the names that ComfyUI and everyone else reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import write_tensors
from . import ldm
from .stable_diffusion import V_PREDICTION, ZERO_TERMINAL_SNR, StableDiffusion


def save_checkpoint(
    path: Path,
    family: StableDiffusion,
    *,
    unet: nn.Module,
    texts: Mapping[str, nn.Module],
    vae: nn.Module,
    vocab: Mapping[str, int],
    merges: Sequence[str],
    vae_scale: float = 1.0,
    vae_shift: float = 0.0,
    dtype: torch.dtype = torch.float16,
    describe: bool = True,
    prediction: str = "epsilon",
    zero_terminal_snr: bool = False,
) -> Path:
    """Writes a single-file checkpoint with the ordinary names, atomically.

    Args:
        path: of the .safetensors file.
        family: whose names.
        unet: a UNet2DConditionModel.
        texts: its text encoders, by their names in ``family.texts``.
        vae: an AutoencoderKL or AutoencoderTiny.
        vocab: the tokenizer's, token -> id.
        merges: the tokenizer's, each "a b".
        vae_scale: only with AutoencoderTiny: unscaled latents times this are what the VAE itself gives.
        vae_shift: and this is subtracted before.
        dtype: of the weights.
        describe: with the header that describes it (see ``stable_diffusion``); one of the usual size needs none.
        prediction: marks the file as ComfyUI does.
        zero_terminal_snr: likewise.
    """
    unet_config, vae_config = _plain(unet.config), _plain(vae.config)  # type: ignore[arg-type]
    tensors = ldm.unet_state(unet.state_dict(), unet_config["layers_per_block"])
    for name, part in family.texts.items():
        state = (ldm.open_clip_state if part.projected else ldm.text_state)(texts[name].state_dict())
        tensors |= {part.prefix + key: tensor for key, tensor in state.items()}
    kind = "taesd" if type(vae).__name__ == "AutoencoderTiny" else "kl"
    if kind == "kl":
        tensors |= ldm.kl_state(vae.state_dict())
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if kind == "taesd":
        small = ldm.tiny_vae_state(vae.state_dict(), vae_scale, vae_shift)
        tensors |= {n: t.to(dtype) if "taesd_" in n else t for n, t in small.items()}
        # Only for the pipelines' sake; the class itself warns of it.
        vae_config.pop("block_out_channels", None)
        vae_config |= {"vae_scale": vae_scale, "vae_shift": vae_shift}
    if prediction == "v_prediction":
        marks = (V_PREDICTION, ZERO_TERMINAL_SNR) if zero_terminal_snr else (V_PREDICTION,)
        tensors |= {mark: torch.zeros(0) for mark in marks}
    description = {
        "unet": unet_config,
        **{name: texts[name].config.to_diff_dict() for name in family.texts},  # type: ignore[union-attr]
        "vae": {"type": kind, **vae_config},
        "tokenizer": {"vocab": dict(vocab), "merges": list(merges)},
    }
    # One key only: safetensors writes several in an order that changes from run to run.
    write_tensors(path, tensors, {family.description: json.dumps(description, sort_keys=True)} if describe else None)
    return path


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers config without what only the library's own bookkeeping needs."""
    return {k: v for k, v in config.items() if not k.startswith("_") and v is not None}
