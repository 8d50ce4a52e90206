"""What SD1.5 and SDXL share: a UNet on CLIP, in the latents of a VAE, with a discrete noise schedule.

A single file may describe itself: its header's metadata then has the key ``darkroom.<family>``, a JSON object of
``unet`` (the config of a UNet2DConditionModel), ``text_encoder`` (of a CLIPTextConfig; SDXL: ``text_encoder_2`` too),
``vae`` (``type`` is ``taesd`` or ``kl``; the rest its config) and ``tokenizer`` (``vocab`` and ``merges``). These are
then used instead of the family's own, so that the same architecture exists at other sizes. The names of the weights are
the ordinary ones in any case.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..clip_tokens import ClipTokenizer
from ..errors import BaseModelError
from ..weights import Header, empty_weights, fill, quantised, read_header, read_tensors
from . import clip_text, ldm, sampling, vae
from .conditioning import stack_conditioning
from .encoders import StableDiffusionEncoders
from .kinds import UNetTraits, refusal, unet_traits

_ASSETS = Path(__file__).parent / "assets"
_ATTENTION = re.compile(r"\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)$")
_TRANSFORMER = re.compile(r"(^|\.)attentions\.\d+\.")
_CONVOLUTIONAL = re.compile(r"(^|\.)(resnets|downsamplers|upsamplers)\.\d+\.")
_TEXT = re.compile(r"(^|\.)encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$")
_EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
V_PREDICTION, ZERO_TERMINAL_SNR = "v_pred", "ztsnr"


@dataclass(frozen=True)
class TextPart:
    """One of a family's text encoders.

    Args:
        prefix: what its weights' names begin with in a single file.
        export: what its modules' names begin with in an exported LoRA.
        projected: it is CLIP-G: under OpenCLIP's names, and giving the pooled output.
        pad: the id that fills up its chunks; None: the end's.
    """

    prefix: str
    export: str
    projected: bool = False
    pad: int | None = None


class StableDiffusion(ABC):
    """A family of this architecture; see ``base.Family`` for the contract."""

    name: str
    title: str
    default_clip_skip: int
    latent_channels = 4
    latent_scale: float
    latent_shift = 0.0
    downsample = 8
    targets: Mapping[str, str]
    texts: ClassVar[Mapping[str, TextPart]]
    """Its text encoders, by the names that diffusers gives them."""
    final_norm: bool
    """Whether the text encoders' final norm is applied to a layer that is not the last."""

    @abstractmethod
    def recognise(self, header: Header) -> bool:
        """By the UNet's keys and shapes."""

    @abstractmethod
    def size_conditioning(
        self, size: tuple[int, int], crop: tuple[int, int], bucket: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """What the UNet is told of a picture's size."""

    @abstractmethod
    def tiny(self, path: Path, seed: int, *, prediction: str = "epsilon", zero_terminal_snr: bool = False) -> Path:
        """A toy of the family."""

    def further(self, conditioning: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, Any]:
        """What the UNet takes beside the hidden states."""
        return {}

    def unet_config(self, header: Header, traits: UNetTraits) -> dict[str, Any]:
        """The config of a base model's UNet."""
        return self.config(header, "unet")

    @property
    def description(self) -> str:
        """The key of a self-describing file's header."""
        return f"darkroom.{self.name}"

    def prediction(self, header: Header) -> tuple[str, bool]:
        """By the marks ``v_pred`` and ``ztsnr`` that a single file may have (as in ComfyUI), or a folder's scheduler.

        As in ComfyUI zero terminal SNR counts only with v-prediction: with epsilon nothing could be learnt there. (Its
        loader heeds the marks in SDXL's files alone; SD1.5's need its node ModelSamplingDiscrete to be drawn with.)
        """
        if header.is_folder:
            scheduler = header.configs.get("scheduler", {})
            kind = str(scheduler.get("prediction_type", "epsilon"))
            name = str(scheduler.get("_class_name", ""))
            if "EDM" in name or kind not in ("epsilon", "v_prediction"):
                what = f"is an EDM model ({name})" if "EDM" in name else f"predicts {kind!r}"
                raise _other_prediction(header, f"{what} by its scheduler_config.json")
            return kind, kind == "v_prediction" and bool(scheduler.get("rescale_betas_zero_snr"))
        marks = {name.removeprefix(ldm.UNET) for name in header.tensors}
        if edm := next((name for name in _EDM if name in marks), None):
            raise _other_prediction(header, f"is an EDM model ({edm})")
        if V_PREDICTION in marks:
            return "v_prediction", ZERO_TERMINAL_SNR in marks
        return "epsilon", False

    def noise_schedule(self, zero_terminal_snr: bool = False) -> torch.Tensor:
        """See ``sampling.alphas_cumprod``; computed in fp64, as ComfyUI does."""
        return sampling.alphas_cumprod(zero_terminal_snr).float()

    def load_model(self, path: Path, dtype: torch.dtype) -> nn.Module:
        """A diffusers UNet2DConditionModel; from a checkpoint, a file of the UNet alone, or a folder."""
        header = self._header(path)
        traits = unet_traits(header)
        if traits is None:
            raise BaseModelError(f"{path} holds no UNet", "choose a whole checkpoint")
        # Only now: a wrong file is refused at once, not after seconds of importing.
        from diffusers import UNet2DConditionModel
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        config = self.unet_config(header, traits)
        state = read_tensors(header, traits.prefix, dtype)
        for mark in (V_PREDICTION, ZERO_TERMINAL_SNR):
            state.pop(mark, None)
        if traits.ldm:
            state = convert_ldm_unet_checkpoint({ldm.UNET + n: t for n, t in state.items()}, config=config)
        with empty_weights():
            model = UNet2DConditionModel.from_config(config)
        return fill(model, state, "UNet", path)  # type: ignore[arg-type]

    def load_encoders(self, path: Path, *, clip_skip: int | None = None) -> StableDiffusionEncoders:
        """The VAE (KL, or TAESD's architecture) and the CLIP text encoders with their tokenizer."""
        header = self._header(path)
        prefixes = {name: f"{name}/" if header.is_folder else part.prefix for name, part in self.texts.items()}
        for prefix, part in (*((p, "text encoder") for p in prefixes.values()), (_vae_prefix(header), "VAE")):
            if not any(name.startswith(prefix) for name in header.tensors):
                raise BaseModelError(
                    f"{path} holds no {part} ({prefix}...): a denoiser alone cannot encode captions and pictures",
                    "choose the whole checkpoint, or train in the graph, where a CLIP and a VAE are wired",
                )
        tokenizer = self._tokenizer(header)
        skip = self.default_clip_skip if clip_skip is None else clip_skip
        texts = {name: self._text(header, name, prefixes[name], tokenizer, skip) for name in self.texts}
        if header.is_folder:
            loaded = vae.from_folder(header, self.latent_scale)
        else:
            described = self.config(header, "vae") if self.description in header.metadata else {}
            loaded = vae.from_file(header, described, _shipped(self.name, "vae"))
        return StableDiffusionEncoders(loaded[0], texts, *loaded[1:])

    def predict(
        self,
        model: nn.Module,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The UNet's prediction; ``conditioning`` has ``hidden`` [B, 77 n, D], and what the family takes besides."""
        dtype = next(model.parameters()).dtype
        given = {"encoder_hidden_states": conditioning["hidden"].to(dtype), **self.further(conditioning, dtype)}
        return model(noisy.to(dtype), timestep, **given).sample

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

    def text_target(self, module_name: str, module: nn.Module) -> bool:
        """The linear layers of the attention and the MLP: what ComfyUI, kohya and A1111 load of a text encoder."""
        return isinstance(module, nn.Linear) and _TEXT.search(module_name) is not None

    def export_key(self, module_name: str, part: str = "unet") -> str:
        """The name in kohya's format, the only one of which ComfyUI loads every module.

        The level ``text_model``, which transformers 5 dropped from one of its classes, is always there.
        """
        if part == "unet":
            return "lora_unet_" + module_name.replace(".", "_")
        name = f"{self.texts[part].export}.text_model.{module_name.removeprefix('text_model.')}"
        return name.replace(".", "_")

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
        """As ComfyUI's KSampler draws with ``euler`` and ``normal``; see ``sampling.euler``."""
        if steps < 1 or width % self.downsample or height % self.downsample or min(width, height) < self.downsample:
            raise ValueError(f"cannot sample {width} x {height} pixels in {steps} steps")
        device = next(model.parameters()).device
        told = self.size_conditioning((width, height), (0, 0), (width, height))
        pair = [{**entry, **told} for entry in ((conditioning,) if guidance == 1.0 else (conditioning, negative))]
        both = {name: tensor.to(device) for name, tensor in stack_conditioning(pair).items()}

        def denoise(noisy: torch.Tensor, timestep: int) -> torch.Tensor:
            steps_of_both = torch.full((len(pair),), timestep, device=device)
            predicted = self.predict(model, noisy.expand(len(pair), -1, -1, -1), steps_of_both, both).float()
            return predicted if len(pair) == 1 else predicted[1:] + guidance * (predicted[:1] - predicted[1:])

        with torch.no_grad():
            latents = sampling.euler(
                denoise,
                (1, self.latent_channels, height // self.downsample, width // self.downsample),
                steps=steps,
                seed=seed,
                device=device,
                prediction=prediction,
                zero_terminal_snr=zero_terminal_snr,
            )
        return latents.cpu() / self.latent_scale + self.latent_shift

    def config(self, header: Header, component: str) -> dict[str, Any]:
        """The config of a component: the folder's own, the file's own, or the family's."""
        if component in header.configs:
            return dict(header.configs[component])
        if self.description in header.metadata:
            try:
                described = json.loads(header.metadata[self.description])
            except ValueError as error:
                message = f"{header.path}: its {self.description} is no JSON: {error}"
                raise BaseModelError(message, "write the file again") from error
            if component not in described:
                message = f"{header.path}: its {self.description} lacks {component!r}"
                raise BaseModelError(message, "write the file again")
            return dict(described[component])
        return _shipped(self.name, component)

    def _header(self, path: Path) -> Header:
        header = read_header(Path(path))
        if not self.recognise(header):
            raise refusal(header, [self.title])
        self.prediction(header)
        quantised.check(header)
        return header

    def _text(
        self, header: Header, name: str, prefix: str, tokenizer: ClipTokenizer, clip_skip: int
    ) -> clip_text.ClipText:
        part, config = self.texts[name], self.config(header, name)
        layers = config.get("num_hidden_layers", 12)
        if not 1 <= clip_skip <= layers:
            message = f"clip_skip: {clip_skip}, but the {name} of {header.path} has {layers} layers"
            raise BaseModelError(message, f"give a number from 1 (the last layer) to {layers}, or leave it out")
        state = read_tensors(header, prefix, torch.float32)
        if part.projected and not header.is_folder:
            state = ldm.from_open_clip(state)
        model = clip_text.build_text_model(config, state, header.path, projected=part.projected)
        vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
        if len(tokenizer) > vocabulary:
            raise BaseModelError(
                f"{header.path}: its tokenizer has {len(tokenizer)} tokens, its text encoder {vocabulary}",
                "the two do not belong together: use an unmodified model",
            )
        return clip_text.ClipText(model, tokenizer, pad=part.pad, clip_skip=clip_skip, final_norm=self.final_norm)

    def _tokenizer(self, header: Header) -> ClipTokenizer:
        if self.description in header.metadata:
            tables = self.config(header, "tokenizer")
            return ClipTokenizer.from_tables(tables["vocab"], tables["merges"])
        if header.is_folder and (header.path / "tokenizer").is_dir():
            return ClipTokenizer(header.path / "tokenizer")
        return ClipTokenizer()


def _other_prediction(header: Header, what: str) -> BaseModelError:
    return BaseModelError(
        f"{header.path} {what}; only epsilon and v-prediction can be trained",
        "choose a model that predicts the noise or v, as most checkpoints do",
    )


def _vae_prefix(header: Header) -> str:
    return "vae/" if header.is_folder else ldm.VAE


def _shipped(family: str, component: str) -> dict[str, Any]:
    return json.loads((_ASSETS / family / component / "config.json").read_text(encoding="utf-8"))
