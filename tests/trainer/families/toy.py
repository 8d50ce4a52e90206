"""SD1.5's models at toy size as the libraries make them, and files of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer.families import sd15, sd15_random

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


class Toy:
    """SD1.5's three models at toy size, as the libraries make them: what a loaded file is compared with."""

    def __init__(self, kind: str = "kl", seed: int = 0) -> None:
        from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        self.vocab, self.merges = sd15_random.byte_vocabulary(("cat", "photo", "of", "a"))
        config = CLIPTextConfig(
            vocab_size=len(self.vocab),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            hidden_act="quick_gelu",
            bos_token_id=self.vocab["<|startoftext|>"],
            eos_token_id=self.vocab["<|endoftext|>"],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet: Any = UNet2DConditionModel.from_config(TOY_UNET).eval()  # type: ignore[union-attr]
            self.text: Any = CLIPTextModel(config).eval()
            vae: Any = AutoencoderKL.from_config(TOY_KL) if kind == "kl" else AutoencoderTiny.from_config(TOY_TINY)
            self.vae: Any = vae.eval()

    def save(self, path: Path, **options: Any) -> Path:
        """As a single file in fp32."""
        options = {"dtype": torch.float32, **options}
        return sd15.save_checkpoint(
            path,
            unet=self.unet,
            text_encoder=self.text,
            vae=self.vae,
            vocab=self.vocab,
            merges=self.merges,
            **options,
        )

    def save_folder(self, path: Path, variant: str | None = None) -> Path:
        """As a diffusers folder, written by the libraries."""
        for name, model in (("unet", self.unet), ("vae", self.vae), ("text_encoder", self.text)):
            model.save_pretrained(path / name, variant=variant)
        tokenizer = path / "tokenizer"
        tokenizer.mkdir()
        (tokenizer / "vocab.json").write_text(json.dumps(self.vocab), encoding="utf-8")
        (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *self.merges, ""]), encoding="utf-8")
        (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
        return path


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far a is from b, relative to b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def rewrite(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of a file with its tensors changed and its header kept."""
    with safe_open(source, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(change(load_file(source)), target, metadata=metadata)
    return target
