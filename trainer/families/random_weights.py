"""Checkpoints of Stable Diffusion's kind with random weights, for tests and measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import clip_tokens
from ..weights import empty_weights
from . import single_file
from .stable_diffusion import StableDiffusion

_ASSETS = Path(__file__).parent / "assets"
_START, _END = "<|startoftext|>", "<|endoftext|>"
# What a toy tokenizer joins, so that captions of tests are not spelled out letter by letter.
_TINY_WORDS = ("photo", "painting", "style", "of", "a", "the", "red", "blue", "circle", "square", "cat", "dog")
TINY_VAE = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}

Tables = tuple[dict[str, int], list[str]]
"""A tokenizer: token -> id, and the merges ("a b") in the order in which they apply."""


def byte_vocabulary(words: Sequence[str] = _TINY_WORDS) -> Tables:
    """A vocabulary of CLIP's kind for lower-case ASCII words: 256 byte symbols, 256 that end a word, merges, 2 marks.

    Every word is one token.
    """
    shipped = asset("clip_l_tokenizer/vocab.json")
    tokens = sorted(shipped, key=shipped.__getitem__)[:512]
    merges: dict[str, None] = {}
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges[f"{parts[0]} {parts[1]}"] = None
            parts[:2] = [parts[0] + parts[1]]
    tokens += [merge.replace(" ", "") for merge in merges] + [_START, _END]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


def shipped_tables() -> Tables:
    """CLIP's own tokenizer."""
    merges = (clip_tokens.SHIPPED / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    return asset("clip_l_tokenizer/vocab.json"), merges


def tiny_text_config(vocab: Mapping[str, int], width: int, **changes: Any) -> dict[str, Any]:
    """The config of a CLIP text encoder of two layers for a vocabulary."""
    config: dict[str, Any] = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "projection_dim": width, "max_position_embeddings": clip_tokens.CHUNK}
    config |= {"hidden_act": "quick_gelu", "vocab_size": len(vocab), "bos_token_id": vocab[_START]}
    return config | {"eos_token_id": vocab[_END], "pad_token_id": vocab[_END]} | changes


def asset(name: str) -> dict[str, Any]:
    """A JSON file of the package."""
    return json.loads((_ASSETS / name).read_text(encoding="utf-8"))


def write(
    path: Path,
    family: StableDiffusion,
    unet: Mapping[str, Any],
    texts: Mapping[str, Mapping[str, Any]],
    vae: Mapping[str, Any],
    tables: Tables,
    seed: int,
    **options: Any,
) -> Path:
    """Draws the models of these configs and writes them.

    Args:
        path: of the .safetensors file.
        family: whose models.
        unet: the config of a UNet2DConditionModel.
        texts: of the text encoders.
        vae: of an AutoencoderKL if it names that class, else of an AutoencoderTiny.
        tables: the tokenizer.
        seed: of the weights.
        options: of ``single_file.save_checkpoint``; ``dtype`` is also the one the weights are drawn in.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with empty_weights():
        models: dict[str, Any] = {"unet": UNet2DConditionModel.from_config(dict(unet))}
        for name, part in family.texts.items():
            kind = CLIPTextModelWithProjection if part.projected else CLIPTextModel
            models[name] = kind(CLIPTextConfig.from_dict(dict(texts[name])))
        kind = AutoencoderKL if vae.get("_class_name") == "AutoencoderKL" else AutoencoderTiny
        models["vae"] = kind.from_config(dict(vae))
    generator = torch.Generator().manual_seed(seed)
    for model in models.values():
        _draw(model, generator, options.get("dtype", torch.float16))
    # Real TAESD gives latents as the denoiser sees them.
    options = {"vae_scale": family.latent_scale, **options}
    unet_model, vae_model = models.pop("unet"), models.pop("vae")
    return single_file.save_checkpoint(
        path, family, unet=unet_model, texts=models, vae=vae_model, vocab=tables[0], merges=tables[1], **options
    )


def _draw(model: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> None:
    """Weights of a scale at which signals neither vanish nor grow; norms are the identity, biases small."""
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim >= 2:
            spread = 0.02 if "embedding.weight" in name else (tensor[0].numel()) ** -0.5
            drawn = torch.randn(tensor.shape, generator=generator) * spread
        else:
            drawn = torch.randn(tensor.shape, generator=generator) * 0.02
            drawn += float("norm" in name and name.endswith("weight"))
        state[name] = drawn.to(dtype)
    model.load_state_dict(state, strict=True, assign=True)
