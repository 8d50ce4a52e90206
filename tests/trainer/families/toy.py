"""SD1.5's and SDXL's models at toy size as the libraries make them, and files of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer.families import random_weights, sd15, sdxl
from trainer.families.single_file import save_checkpoint
from trainer.families.stable_diffusion import StableDiffusion

TOY_UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 48,
    "attention_head_dim": 8,
}
TOY_KL = {
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
TOY_TINY = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}


TOY_UNET_XL = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "cross_attention_dim": 48 + 64,
    "attention_head_dim": (4, 8, 8),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 32 + 6 * 16,
}


class Toy:
    """A family's models at toy size, as the libraries make them: what a loaded file is compared with."""

    def __init__(self, kind: str = "kl", seed: int = 0, *, family: StableDiffusion = sd15.FAMILY) -> None:
        from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        self.family = family
        self.is_xl = family is sdxl.FAMILY
        self.vocab, self.merges = random_weights.byte_vocabulary(("cat", "photo", "of", "a"))
        vae_config: Any = {**TOY_KL, "scaling_factor": family.latent_scale} if kind == "kl" else TOY_TINY
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet: Any = UNet2DConditionModel.from_config(TOY_UNET_XL if self.is_xl else TOY_UNET)
            self.texts: dict[str, Any] = {"text_encoder": CLIPTextModel(self._text_config(48))}
            if self.is_xl:
                second = self._text_config(64, projection_dim=32, hidden_act="gelu")
                self.texts["text_encoder_2"] = CLIPTextModelWithProjection(second)
            self.vae: Any = (AutoencoderKL if kind == "kl" else AutoencoderTiny).from_config(vae_config)
            for model in (self.unet, self.vae, *self.texts.values()):
                model.eval()
                # As made, norms do nothing; these would hide a missing or superfluous one.
                for name, parameter in model.named_parameters():
                    if "norm" in name:
                        parameter.data += 0.3 * torch.randn(parameter.shape)

    def _text_config(self, width: int, **changes: Any) -> Any:
        from transformers import CLIPTextConfig

        layers = {"num_hidden_layers": 4, "intermediate_size": 96}
        return CLIPTextConfig(**random_weights.tiny_text_config(self.vocab, width, **layers, **changes))

    def save(self, path: Path, **options: Any) -> Path:
        """As a single file in fp32."""
        options = {"dtype": torch.float32, "vocab": self.vocab, "merges": self.merges, **options}
        return save_checkpoint(path, self.family, unet=self.unet, texts=self.texts, vae=self.vae, **options)

    def save_folder(self, path: Path, variant: str | None = None) -> Path:
        """As a diffusers folder, written by the libraries."""
        for name, model in {"unet": self.unet, "vae": self.vae, **self.texts}.items():
            model.save_pretrained(path / name, variant=variant)
        self.save_tokenizer(path / "tokenizer")
        (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
        return path

    def save_tokenizer(self, folder: Path) -> Path:
        """The two tables that transformers reads."""
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps(self.vocab), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *self.merges, ""]), encoding="utf-8")
        return folder


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far a is from b, relative to b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def rewrite(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of a file with its tensors changed and its header kept."""
    with safe_open(source, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(change(load_file(source)), target, metadata=metadata)
    return target
