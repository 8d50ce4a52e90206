"""A base model's parts with adapters, as in the trainer: their LoRA, and PEFT's merged weights by ComfyUI's keys."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.trainer.adapters.small import Tensors, merged, move
from trainer import adapters, families
from trainer.families import ldm

# How ComfyUI calls the text encoders.
CLIPS = {"sd15": {"text_encoder": "clip_l"}, "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}}


class Parts:
    """The denoiser and the text encoders of a checkpoint, whose first layers alone get adapters.

    Args:
        file: the checkpoint.
        where: which of the denoiser's layers get adapters, by diffusers' name.
        text_layers: of each text encoder; the rest is dropped, so that copies are cheap. None: all.
    """

    def __init__(self, file: Path, where: Callable[[str], bool], text_layers: int | None = None) -> None:
        self.family: Any = families.detect(file)
        self.where = where
        self.parts: dict[str, Any] = {"unet": self.family.load_model(file, torch.float32)}
        for name, model in self.family.load_encoders(file).text_models.items():
            inner = getattr(model, "text_model", model)
            if text_layers is not None:
                inner.encoder.layers = inner.encoder.layers[:text_layers]
            self.parts[name] = model.requires_grad_(False)

    def with_adapters(self, method: str) -> dict[str, Any]:
        """Copies of the parts with adapters that have been moved, of several ranks."""
        made = {name: copy.deepcopy(model) for name, model in self.parts.items()}
        settings: dict[str, Any] = {"rank": 3, "alpha": 2.0, "seed": 0, "method": method}
        for name, model in made.items():
            if name == "unet":
                is_target = self._is_target
                adapters.inject(model, is_target, ranks={"attn2": 2}, **settings)
            else:
                adapters.inject(model, self.family.text_target, **settings)
            move(model, by=0.05)
        return made

    def _is_target(self, name: str, module: torch.nn.Module) -> bool:
        return self.where(name) and self.family.is_target(name, module, "conv")

    def lora(self, made: dict[str, Any]) -> Tensors:
        """The tensors of the LoRA file."""
        found: Tensors = {}
        for part, model in made.items():
            found |= adapters.exported(model, lambda name, part=part: self.family.export_key(name, part))
        return found

    def by_comfys_keys(self, part: str, weights: Tensors) -> Tensors:
        """Weights of a part by ComfyUI's keys."""
        if part == "unet":
            unet = self.parts["unet"]
            whole = {n: weights.get(n, p) for n, p in unet.state_dict().items()}
            names = ldm.unet_state(dict(zip(whole, whole, strict=True)), unet.config["layers_per_block"])  # type: ignore[arg-type]
            return {key.removeprefix("model."): weights[n] for key, n in names.items() if n in weights}  # type: ignore[index]
        clip = CLIPS[self.family.name][part]
        return {
            f"{clip}.transformer.text_model.{name.removeprefix('text_model.')}": weight
            for name, weight in weights.items()
        }

    def wanted(self, made: dict[str, Any], strength: float) -> Tensors:
        """PEFT's merged weights at a strength, by ComfyUI's keys."""
        found: Tensors = {}
        for part, model in made.items():
            weights = {f"{name}.weight": weight for name, weight in merged(model, strength).items()}
            found |= self.by_comfys_keys(part, weights)
        return found

    def plain(self, made: dict[str, Any]) -> Tensors:
        """The base's weights of all layers with adapters, by ComfyUI's keys."""
        found: Tensors = {}
        for part, model in made.items():
            names = [f"{layer.name}.weight" for layer in adapters.layers(model)]
            state = self.parts[part].state_dict()
            found |= self.by_comfys_keys(part, {name: state[name] for name in names})
        return found
