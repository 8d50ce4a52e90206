"""SD1.5-shaped checkpoints with random weights, for tests and measurements: toy size, small, and full size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import clip_text, sd15
from .weights import empty_weights

_ASSETS = Path(__file__).parent / "assets"
_START, _END = "<|startoftext|>", "<|endoftext|>"
# What a toy tokenizer joins, so that captions of tests are not spelled out letter by letter.
_TINY_WORDS = ("photo", "painting", "style", "of", "a", "the", "red", "blue", "circle", "square", "cat", "dog")


def write_tiny(path: Path, seed: int) -> Path:
    """``SD15.tiny``: a UNet of 32 and 64 channels, a text encoder of 2 layers of 32, a TAESD of 8 channels, fp16."""
    vocab, merges = byte_vocabulary(_TINY_WORDS)
    unet = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"projection_dim": 32, "max_position_embeddings": clip_text.CHUNK, "hidden_act": "quick_gelu"}
    text |= {"vocab_size": len(vocab), "bos_token_id": vocab[_START]}
    text |= {"eos_token_id": vocab[_END], "pad_token_id": vocab[_END]}
    vae = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    return _write(path, unet, text, ("tiny", vae), (vocab, merges), seed, torch.float16, describe=True)


def write_random(path: Path, *, full: bool = True, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """A checkpoint that the stock loader of ComfyUI takes, with random weights.

    Args:
        path: of the .safetensors file.
        full: SD1.5's own size with the KL VAE (2.1 GB in fp16), without a describing header, as such files are. Else a
            UNet of one level of SD1.5's first width, the whole CLIP-L and TAESD (300 MB in fp16), with the header.
        dtype: of the weights.
        seed: of the weights.
    """
    unet, text, vae = (_read_json(f"sd15/{part}/config.json") for part in ("unet", "text_encoder", "vae"))
    merges = (clip_text.SHIPPED / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    tables = (_read_json("clip_l_tokenizer/vocab.json"), merges)
    if full:
        return _write(path, unet, text, ("kl", vae), tables, seed, dtype, describe=False)
    unet |= {"block_out_channels": [320], "layers_per_block": 1}
    unet |= {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["UpBlock2D"]}
    return _write(path, unet, text, ("tiny", {}), tables, seed, dtype, describe=True)


def byte_vocabulary(words: tuple[str, ...]) -> tuple[dict[str, int], list[str]]:
    """A vocabulary of CLIP's kind for lower-case ASCII words: 256 byte symbols, 256 that end a word, merges, 2 marks.

    Returns:
        token -> id, and the merges; every word is one token.
    """
    shipped = _read_json("clip_l_tokenizer/vocab.json")
    tokens = sorted(shipped, key=shipped.__getitem__)[:512]
    merges: dict[str, None] = {}
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges[f"{parts[0]} {parts[1]}"] = None
            parts[:2] = [parts[0] + parts[1]]
    tokens += [merge.replace(" ", "") for merge in merges] + [_START, _END]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


def _write(
    path: Path,
    unet_config: dict[str, Any],
    text_config: dict[str, Any],
    vae: tuple[str, dict[str, Any]],
    tables: tuple[dict[str, int], list[str]],
    seed: int,
    dtype: torch.dtype,
    *,
    describe: bool,
) -> Path:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    kind, vae_config = vae
    with empty_weights():
        unet = UNet2DConditionModel.from_config(unet_config)
        text = CLIPTextModel(CLIPTextConfig.from_dict(text_config))
        auto = (AutoencoderKL if kind == "kl" else AutoencoderTiny).from_config(vae_config)
    generator = torch.Generator().manual_seed(seed)
    for model in (unet, text, auto):
        _draw(model, generator, dtype)  # type: ignore[arg-type]
    return sd15.save_checkpoint(
        path,
        unet=unet,  # type: ignore[arg-type]
        text_encoder=text,
        vae=auto,  # type: ignore[arg-type]
        vocab=tables[0],
        merges=tables[1],
        # Real TAESD gives latents as the denoiser sees them.
        vae_scale=sd15.FAMILY.latent_scale,
        dtype=dtype,
        describe=describe,
    )


def _read_json(name: str) -> dict[str, Any]:
    return json.loads((_ASSETS / name).read_text(encoding="utf-8"))


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
