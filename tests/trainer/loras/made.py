"""LoRA files for the commands, and what they change."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer import export

Tensors = dict[str, torch.Tensor]

SHAPES = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (48, 16),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (32, 32),
    "lora_unet_down_blocks_1_attentions_0_proj_in": (24, 32, 1, 1),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2": (20, 40),
    "lora_unet_up_blocks_2_resnets_1_conv2": (24, 16, 3, 3),
}


def tensors(seed: int, rank: int = 8, alpha: float | None = 4.0, keys: list[str] | None = None) -> Tensors:
    """A LoRA on a few layers of every kind, whose singular values differ."""
    generator = torch.Generator().manual_seed(seed)
    result: Tensors = {}
    for key in keys or SHAPES:
        out, *rest = SHAPES[key]
        down = torch.randn(rank, *rest, generator=generator)
        up = torch.randn(out, rank, generator=generator) * torch.linspace(1, 0.05, rank)
        result[f"{key}.lora_down.weight"] = down
        result[f"{key}.lora_up.weight"] = up.reshape(out, rank, *[1] * (len(rest) - 1))
        if alpha is not None:
            result[f"{key}.alpha"] = torch.tensor(alpha)
    return result


def written(path: Path, seed: int, header: dict[str, str] | None = None, **settings) -> Path:
    export.write(path, tensors(seed, **settings), header or {})
    return path


def changes(path: Path) -> Tensors:
    """What a file changes, by key, in fp64."""
    lora, _ = export.read(path)
    found: Tensors = {}
    for name, down in lora.items():
        key, _, part = name.partition(".")
        if part == "lora_down.weight":
            scale = float(lora.get(f"{key}.alpha", torch.tensor(float(len(down))))) / len(down)
            found[key] = scale * torch.einsum(
                "or,r...->o...", lora[f"{key}.lora_up.weight"].double().flatten(1), down.double()
            )
    return found


def norm(found: Tensors) -> float:
    return sum(float(change.square().sum()) for change in found.values()) ** 0.5
