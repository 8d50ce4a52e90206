"""Stable Diffusion 1.5 (Rombach et al., arXiv 2112.10752): a UNet on CLIP-L, in 4 latent channels.

A single file may describe itself: its header's metadata then has the key ``darkroom.sd15``, a JSON object of
``unet`` (the config of a UNet2DConditionModel), ``text_encoder`` (of a CLIPTextConfig), ``vae`` (``type`` is ``taesd``
or ``kl``; the rest its config) and ``tokenizer`` (``vocab`` and ``merges``). These are then used instead of SD1.5's
own, so that the same architecture exists at other sizes. The names of the weights are the ordinary ones in any case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError
from . import clip_text, ldm
from .base import Header
from .kinds import quantised, refusal, unet_traits
from .weights import empty_weights, fill, read_header, read_tensors, variant

DESCRIPTION = "darkroom.sd15"
_CONFIGS = Path(__file__).parent / "assets" / "sd15"
_ATTENTION = re.compile(r"\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)$")
_TRANSFORMER = re.compile(r"(^|\.)attentions\.\d+\.")
_CONVOLUTIONAL = re.compile(r"(^|\.)(resnets|downsamplers|upsamplers)\.\d+\.")


class SD15:
    """The family ``sd15``; see ``base.Family`` for the contract."""

    name = "sd15"
    title = "Stable Diffusion 1.5"
    prediction_type = "epsilon"
    latent_channels = 4
    latent_scale = 0.18215
    latent_shift = 0.0
    downsample = 8
    targets: Mapping[str, str] = {
        "attention": "to_q, to_k, to_v and to_out of the attention layers (128 modules)",
        "linear": "every linear layer and 1x1 convolution of the transformers (192 modules)",
        "conv": "these, and the convolutions and time projections of the residual blocks and samplers (278 modules)",
    }

    def recognise(self, header: Header) -> bool:
        """By the UNet: 4 channels in, convolutional proj_in, context of 768, no further embedding."""
        if DESCRIPTION in header.metadata:
            return True
        traits = unet_traits(header)
        if traits is None or traits.in_channels != 4 or traits.linear_projection or traits.extra_embedding:
            return False
        # A folder brings its own configs, so any width will do that fits its text encoder.
        expected = header.configs.get("text_encoder", {}).get("hidden_size", 768)
        return traits.context == expected

    def noise_schedule(self) -> torch.Tensor:
        """Scaled-linear betas from 0.00085 to 0.012 over 1000 steps; computed in fp64, as ComfyUI does."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return torch.cumprod(1.0 - betas, dim=0).float()

    def load_denoiser(self, path: Path, dtype: torch.dtype) -> nn.Module:
        """A diffusers UNet2DConditionModel; from a checkpoint, a file of the UNet alone, or a folder."""
        header = self._header(path)
        traits = unet_traits(header)
        if traits is None:
            raise BaseModelError(f"{path} holds no UNet", "choose a whole checkpoint")
        if (scale := quantised(header, traits.prefix)) is not None:
            raise BaseModelError(
                f"{path} holds quantised weights ({scale})", "train on the fp16, bf16 or fp32 version of the model"
            )
        # Only now: a wrong file is refused at once, not after seconds of importing.
        from diffusers import UNet2DConditionModel
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        config = self._config(header, "unet")
        state = read_tensors(header, traits.prefix, dtype)
        if traits.ldm:
            state = convert_ldm_unet_checkpoint({ldm.UNET + n: t for n, t in state.items()}, config=config)
        with empty_weights():
            model = UNet2DConditionModel.from_config(config)
        return fill(model, state, "UNet", path)  # type: ignore[arg-type]

    def load_encoders(self, path: Path) -> SD15Encoders:
        """The VAE (KL, or TAESD's architecture) and CLIP-L with its tokenizer."""
        header = self._header(path)
        text_prefix = "text_encoder/" if header.is_folder else ldm.TEXT
        vae_prefix = "vae/" if header.is_folder else ldm.VAE
        for prefix, part in ((text_prefix, "text encoder"), (vae_prefix, "VAE")):
            if not any(name.startswith(prefix) for name in header.tensors):
                raise BaseModelError(
                    f"{path} holds no {part}: a denoiser alone cannot encode captions and pictures",
                    "choose the whole checkpoint, or train in the graph, where a CLIP and a VAE are wired",
                )
        config = self._config(header, "text_encoder")
        text_model = clip_text.build_text_model(config, read_tensors(header, text_prefix, torch.float32), path)
        tokenizer = self._tokenizer(header)
        if len(tokenizer) > config["vocab_size"]:
            raise BaseModelError(
                f"{path}: its tokenizer has {len(tokenizer)} tokens, its text encoder {config['vocab_size']}",
                "the two do not belong together: use an unmodified model",
            )
        vae, scale, shift = self._folder_vae(header) if header.is_folder else self._file_vae(header)
        return SD15Encoders(vae, text_model, tokenizer, scale, shift)

    def predict(
        self,
        model: nn.Module,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The noise in ``noisy``; ``conditioning`` has ``hidden`` [B, 77 n, 768]."""
        dtype = next(model.parameters()).dtype
        return model(noisy.to(dtype), timestep, encoder_hidden_states=conditioning["hidden"].to(dtype)).sample

    def is_target(self, module_name: str, module: nn.Module, which: str) -> bool:
        """See ``targets``. ``conv`` is what LoCon trains: not the first and last convolution."""
        if which not in self.targets:
            raise ValueError(f"lora_targets: {which!r} is none of {', '.join(self.targets)}")
        if not isinstance(module, nn.Linear | nn.Conv2d):
            return False
        if which == "attention":
            return _ATTENTION.search(module_name) is not None
        pointwise = isinstance(module, nn.Linear) or module.kernel_size == (1, 1)
        if _TRANSFORMER.search(module_name) is not None and pointwise:
            return True
        return which == "conv" and _CONVOLUTIONAL.search(module_name) is not None

    def export_key(self, module_name: str) -> str:
        """The name in kohya's format, the only one of which ComfyUI loads every UNet module."""
        return "lora_unet_" + module_name.replace(".", "_")

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
    ) -> torch.Tensor:
        """Euler's method (Karras et al., arXiv 2206.00364), timesteps spread evenly over the schedule.

        Noise and steps are those of ComfyUI's KSampler with ``euler`` and ``normal``, so the same seed gives the same
        picture there. diffusers' scheduler spaces its sigmas differently.
        """
        if steps < 1 or width % self.downsample or height % self.downsample or min(width, height) < self.downsample:
            raise ValueError(f"cannot sample {width} x {height} pixels in {steps} steps")
        timesteps, sigmas = self._steps(steps)
        device = next(model.parameters()).device
        shape = (1, self.latent_channels, height // self.downsample, width // self.downsample)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        latents = noise.to(device) * (sigmas[0] ** 2 + 1) ** 0.5
        pair = (conditioning["hidden"], negative["hidden"]) if guidance != 1.0 else (conditioning["hidden"],)
        length = lcm(*(hidden.shape[1] for hidden in pair))
        hidden = torch.cat([h.to(device).repeat(1, length // h.shape[1], 1) for h in pair])
        with torch.no_grad():
            for timestep, sigma, following in zip(timesteps, sigmas[:-1], sigmas[1:], strict=True):
                noisy = (latents / (sigma**2 + 1) ** 0.5).expand(len(pair), -1, -1, -1)
                repeated = torch.full((len(pair),), timestep, device=device)
                noise = self.predict(model, noisy, repeated, {"hidden": hidden}).float()
                if len(pair) == 2:
                    noise = noise[1:] + guidance * (noise[:1] - noise[1:])
                latents = latents + noise * (following - sigma)
        return latents.cpu() / self.latent_scale + self.latent_shift

    def tiny(self, path: Path, seed: int) -> Path:
        """A UNet of 32 and 64 channels, a text encoder of 2 layers, a small TAESD; 2 MB in fp16."""
        from .sd15_random import write_tiny

        return write_tiny(path, seed)

    def _steps(self, steps: int) -> tuple[list[int], list[float]]:
        """Timesteps, and the noise levels before and after each; a level between two is interpolated by its log."""
        alphas = self.noise_schedule()
        levels = (((1 - alphas) / alphas) ** 0.5).log()
        spread = torch.linspace(999, 0, steps)
        low = spread.floor().long()
        part = spread - low
        sigmas = ((1 - part) * levels[low] + part * levels[spread.ceil().long()]).exp()
        return spread.round().long().tolist(), [*sigmas.tolist(), 0.0]

    def _header(self, path: Path) -> Header:
        header = read_header(Path(path))
        if not self.recognise(header):
            raise refusal(header, [self.title])
        predicts = header.configs.get("scheduler", {}).get("prediction_type", "epsilon")
        if predicts != self.prediction_type:
            raise BaseModelError(
                f"{path} predicts {predicts!r} by its scheduler_config.json; {self.title} is trained on the noise",
                "choose a model that predicts epsilon",
            )
        return header

    def _description(self, header: Header) -> dict[str, Any]:
        try:
            return json.loads(header.metadata[DESCRIPTION])
        except ValueError as error:
            message = f"{header.path}: its {DESCRIPTION} is no JSON: {error}"
            raise BaseModelError(message, "write the file again") from error

    def _config(self, header: Header, component: str) -> dict[str, Any]:
        """The config of a component: the folder's own, the file's own, or SD1.5's."""
        if component in header.configs:
            return dict(header.configs[component])
        if DESCRIPTION in header.metadata:
            described = self._description(header)
            if component not in described:
                raise BaseModelError(f"{header.path}: its {DESCRIPTION} lacks {component!r}", "write the file again")
            return dict(described[component])
        return json.loads((_CONFIGS / component / "config.json").read_text(encoding="utf-8"))

    def _tokenizer(self, header: Header) -> clip_text.ClipTokenizer:
        if DESCRIPTION in header.metadata:
            tables = self._config(header, "tokenizer")
            return clip_text.ClipTokenizer.from_tables(tables["vocab"], tables["merges"])
        if header.is_folder and (header.path / "tokenizer").is_dir():
            return clip_text.ClipTokenizer(header.path / "tokenizer")
        return clip_text.ClipTokenizer()

    def _file_vae(self, header: Header) -> tuple[nn.Module, float, float]:
        from diffusers import AutoencoderKL, AutoencoderTiny
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        state = read_tensors(header, ldm.VAE, torch.float32)
        described = self._config(header, "vae") if DESCRIPTION in header.metadata else {}
        config = {k: v for k, v in described.items() if k not in ("type", "vae_scale", "vae_shift", "latent_rgb")}
        if any(name.startswith("taesd_") for name in state):
            # As in ComfyUI the tensors count; the description only repeats them.
            scale, shift = float(state.pop("vae_scale", 1.0)), float(state.pop("vae_shift", 0.0))
            with empty_weights():
                vae = AutoencoderTiny.from_config(config)
            return fill(vae, ldm.from_tiny_vae(state), "VAE", header.path), scale, shift  # type: ignore[arg-type]
        config = config or self._config(header, "vae")
        # Files of the whole training carry what only that needs.
        state = {ldm.VAE + n: t for n, t in state.items() if not n.startswith(("loss.", "model_ema."))}
        with empty_weights():
            vae = AutoencoderKL.from_config(config)
        converted = convert_ldm_vae_checkpoint(state, config)
        return fill(vae, converted, "VAE", header.path), 1.0, 0.0  # type: ignore[arg-type]

    def _folder_vae(self, header: Header) -> tuple[nn.Module, float, float]:
        import diffusers

        config = self._config(header, "vae")
        classes = {"AutoencoderKL": diffusers.AutoencoderKL, "AutoencoderTiny": diffusers.AutoencoderTiny}
        kind = classes.get(config.get("_class_name", ""))
        if kind is None:
            raise BaseModelError(f"{header.path}: unknown VAE {config.get('_class_name')}", "use AutoencoderKL")
        # The library renames the attention weights of old folders.
        vae, info = kind.from_pretrained(
            str(header.path / "vae"),
            local_files_only=True,
            use_safetensors=True,
            variant=variant(header, "vae"),
            output_loading_info=True,
        )
        if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
            wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
            message = f"{header.path}: its VAE does not fit its config ({wrong[0]})"
            raise BaseModelError(message, "use an unmodified model")
        # The denoiser sees the VAE's latents times its own factor: 0.18215 for the KL VAE, 1 for TAESD.
        scale = self.latent_scale / float(config.get("scaling_factor", 1.0))
        return vae.float().requires_grad_(False).eval(), scale, 0.0


class SD15Encoders:
    """SD1.5's VAE and text encoder; see ``base.Encoders``.

    Args:
        vae: a diffusers AutoencoderKL or AutoencoderTiny.
        text_model: a transformers CLIPTextModel.
        tokenizer: its own.
        scale: unscaled latents are the VAE's own, divided by this ...
        shift: ... plus this (ComfyUI's ``vae_scale`` and ``vae_shift``).
    """

    def __init__(
        self,
        vae: nn.Module,
        text_model: nn.Module,
        tokenizer: clip_text.ClipTokenizer,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        self.vae: Any = vae
        self.text_model = text_model
        self.tokenizer = tokenizer
        self.scale, self.shift = scale, shift

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 4, H/8, W/8], fp32, on the CPU: the mode of the posterior, unscaled."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % 8 or pixels.shape[3] % 8:
            raise ValueError(f"pixels must be [B, 3, H, W] with sides in multiples of 8, not {list(pixels.shape)}")
        with torch.no_grad():
            encoded = self.vae.encode(pixels.to(self._device, torch.float32) * 2.0 - 1.0)
        own = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return own.cpu() / self.scale + self.shift

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, 4, h, w] unscaled -> [B, 3, 8 h, 8 w] in 0..1, fp32, on the CPU."""
        with torch.no_grad():
            own = (latents.to(self._device, torch.float32) - self.shift) * self.scale
            return ((self.vae.decode(own).sample + 1.0) / 2.0).clamp(0.0, 1.0).cpu()

    def encode_text(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """``hidden`` [1, 77 n, 768] of each caption, fp32, on the CPU; the empty caption is one chunk of 77."""
        return [{"hidden": hidden} for hidden in clip_text.encode(self.text_model, self.tokenizer, captions)]

    def to(self, device: torch.device | str) -> SD15Encoders:
        """Moves both to a device, in place."""
        self.vae.to(device)
        self.text_model.to(device)
        return self

    @property
    def _device(self) -> torch.device:
        return next(self.vae.parameters()).device


def save_checkpoint(
    path: Path,
    *,
    unet: nn.Module,
    text_encoder: nn.Module,
    vae: nn.Module,
    vocab: Mapping[str, int],
    merges: Sequence[str],
    vae_scale: float = 1.0,
    vae_shift: float = 0.0,
    dtype: torch.dtype = torch.float16,
    describe: bool = True,
) -> Path:
    """Writes a single-file checkpoint with the ordinary names, atomically.

    Args:
        path: of the .safetensors file.
        unet: a UNet2DConditionModel.
        text_encoder: a CLIPTextModel.
        vae: an AutoencoderKL or AutoencoderTiny.
        vocab: the tokenizer's, token -> id.
        merges: the tokenizer's, each "a b".
        vae_scale: only with AutoencoderTiny: unscaled latents times this are what the VAE itself gives.
        vae_shift: and this is subtracted before.
        dtype: of the weights.
        describe: with the header that describes the file (see the module); a file of SD1.5's own size needs none.
    """
    from ..files import write_tensors

    unet_config = _plain(unet.config)  # type: ignore[arg-type]
    vae_config = _plain(vae.config)  # type: ignore[arg-type]
    tensors = ldm.unet_state(unet.state_dict(), unet_config["layers_per_block"])
    tensors |= ldm.text_state(text_encoder.state_dict())
    kind = "taesd" if type(vae).__name__ == "AutoencoderTiny" else "kl"
    if kind == "taesd":
        # Only for the pipelines' sake; the class itself warns of it.
        vae_config.pop("block_out_channels", None)
    else:
        tensors |= ldm.kl_state(vae.state_dict())
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if kind == "taesd":
        small = ldm.tiny_vae_state(vae.state_dict(), vae_scale, vae_shift)
        tensors |= {n: t.to(dtype) if "taesd_" in n else t for n, t in small.items()}
        vae_config |= {"vae_scale": vae_scale, "vae_shift": vae_shift}
    description = {
        "unet": unet_config,
        "text_encoder": text_encoder.config.to_diff_dict(),  # type: ignore[union-attr]
        "vae": {"type": kind, **vae_config},
        "tokenizer": {"vocab": dict(vocab), "merges": list(merges)},
    }
    # One key only: safetensors writes several in an order that changes from run to run.
    write_tensors(path, tensors, {DESCRIPTION: json.dumps(description, sort_keys=True)} if describe else None)
    return path


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers config without what only the library's own bookkeeping needs."""
    return {k: v for k, v in config.items() if not k.startswith("_") and v is not None}


FAMILY = SD15()
