"""The names that weights have in single-file checkpoints: the original LDM code's, OpenCLIP's, and TAESD's.

The UNet and the KL VAE are read by diffusers (``convert_ldm_unet_checkpoint`` and its like), which has no way back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

UNET = "model.diffusion_model."
VAE = "first_stage_model."

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_OPEN_CLIP_ENDS = {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final"}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_state(state: Mapping[str, torch.Tensor], layers_per_block: int) -> dict[str, torch.Tensor]:
    """A UNet2DConditionModel's weights under the names of a checkpoint."""
    up_attention = {n.split(".")[1] for n in state if n.startswith("up_blocks.") and ".attentions." in n}
    return {UNET + _unet_name(n, layers_per_block, up_attention): tensor for n, tensor in state.items()}


def kl_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An AutoencoderKL's weights under the names of a checkpoint; its attention becomes 1x1 convolutions."""
    levels = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("decoder.up_blocks."))
    result = {}
    for name, tensor in state.items():
        attention = ".attentions." in name and tensor.ndim == 2
        result[VAE + _kl_name(name, levels)] = tensor[:, :, None, None] if attention else tensor
    return result


def tiny_vae_state(state: Mapping[str, torch.Tensor], scale: float, shift: float) -> dict[str, torch.Tensor]:
    """An AutoencoderTiny's weights under the names of a checkpoint, with the scale and shift of its latents."""
    result = {}
    for name, tensor in state.items():
        half, _, index, rest = name.split(".", 3)
        # The original decoder's first layer is the clamp of the latents, which diffusers has in its forward.
        number = int(index) + (half == "decoder")
        result[f"{VAE}taesd_{half}.{number}.{rest}"] = tensor
    # fp32 whatever the rest is: ComfyUI multiplies with them as they are.
    result[VAE + "vae_scale"] = torch.tensor(scale, dtype=torch.float32)
    result[VAE + "vae_shift"] = torch.tensor(shift, dtype=torch.float32)
    return result


def from_tiny_vae(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back: ``taesd_encoder.N`` and ``taesd_decoder.N`` as an AutoencoderTiny's weights."""
    result = {}
    for name, tensor in state.items():
        half, index, rest = name.removeprefix("taesd_").split(".", 2)
        result[f"{half}.layers.{int(index) - (half == 'decoder')}.{rest}"] = tensor
    return result


def text_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIPTextModel's weights under the names of a checkpoint, whatever version of transformers wrote them."""
    return {f"text_model.{n.removeprefix('text_model.')}": tensor for n, tensor in state.items()}


def open_clip_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIPTextModelWithProjection's weights under OpenCLIP's names: q, k and v in one, the projection transposed."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    result = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if name == "text_projection.weight":
            result["text_projection"] = tensor.T.contiguous()
        elif name == "embeddings.position_embedding.weight":
            result["positional_embedding"] = tensor
        elif module in _OPEN_CLIP_ENDS:
            result[f"{_OPEN_CLIP_ENDS[module]}.{kind}"] = tensor
        elif module.endswith(".q_proj"):
            three = [state[f"{module.removesuffix('q_proj')}{which}_proj.{kind}"] for which in "qkv"]
            layer = module.removeprefix("encoder.layers.").split(".")[0]
            result[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(three)
        elif not module.endswith((".k_proj", ".v_proj")):
            _, _, layer, inside = module.split(".", 3)
            result[f"transformer.resblocks.{layer}.{_OPEN_CLIP[inside]}.{kind}"] = tensor
    return result


def from_open_clip(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back, as ComfyUI takes it (``comfy.utils.clip_text_transformers_convert``); other names are left."""
    ends = {theirs: ours for ours, theirs in _OPEN_CLIP_ENDS.items()}
    inner = {theirs: ours for ours, theirs in _OPEN_CLIP.items()}
    result = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", module)
        if name == "text_projection":
            result["text_projection.weight"] = tensor.T.contiguous()
        elif name == "positional_embedding":
            result["embeddings.position_embedding.weight"] = tensor
        elif module in ends:
            result[f"{ends[module]}.{kind}"] = tensor
        elif block and kind in ("in_proj_weight", "in_proj_bias"):
            for which, part in zip("qkv", tensor.chunk(3), strict=True):
                rest = f"self_attn.{which}_proj.{kind.removeprefix('in_proj_')}"
                result[f"encoder.layers.{block[1]}.{rest}"] = part.clone()
        elif block and block[2] in inner:
            result[f"encoder.layers.{block[1]}.{inner[block[2]]}.{kind}"] = tensor
        else:
            result[name] = tensor
    return result


def unet_layout(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the names and shapes of an SDXL-like UNet tell of its config: widths, depths, where there is attention.

    SDXL has smaller relatives (SSD-1B, Segmind Vega, KOALA), of which single files do not say what they are; ComfyUI
    tells them apart likewise (``comfy.model_detection.detect_unet_config``). Heads are 64 wide in all of them.

    Args:
        shapes: of the tensors, by their names in a checkpoint without ``UNET``.

    Returns:
        fields of a UNet2DConditionModel's config.
    """
    depths: dict[tuple[str, int], int] = {}
    for name in shapes:
        if place := re.match(r"(input|output)_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.", name):
            key = (place[1], int(place[2]))
            depths[key] = max(depths.get(key, 0), int(place[3]) + 1)
    levels: list[list[int]] = [[]]
    widths = [shapes["input_blocks.0.0.weight"][0]]
    block = 1
    while any(name.startswith(f"input_blocks.{block}.") for name in shapes):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
            widths.append(widths[-1])
        else:
            levels[-1].append(depths.get(("input", block), 0))
            widths[-1] = shapes.get(f"input_blocks.{block}.0.out_layers.3.weight", (widths[-1],))[0]
        block += 1
    layers = len(levels[0])
    up = [
        [depths.get(("output", level * (layers + 1) + layer), 0) for layer in range(layers + 1)]
        for level in range(len(levels))
    ]
    middle = next((n for n in ("1.proj_in", "0.in_layers.0") if f"middle_block.{n}.weight" in shapes), None)
    return {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if any(depth) else "DownBlock2D" for depth in levels],
        "up_block_types": ["CrossAttnUpBlock2D" if any(depth) else "UpBlock2D" for depth in up],
        "transformer_layers_per_block": [_depth(depth) for depth in levels],
        "reverse_transformer_layers_per_block": [_depth(depth) for depth in up],
        "attention_head_dim": [width // 64 for width in widths],
        "mid_block_type": {"1.proj_in": "UNetMidBlock2DCrossAttn", "0.in_layers.0": "UNetMidBlock2D"}.get(middle or ""),
    }


def _depth(depths: list[int]) -> int | list[int]:
    """One number for a level if it has one; a level without attention is given 1, which counts for nothing."""
    return depths if len(set(depths)) > 1 else max(depths[0], 1)


def _unet_name(name: str, layers: int, up_attention: set[str]) -> str:
    module, _, kind = name.rpartition(".")
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{kind}"
    parts = module.split(".")
    if parts[0] == "mid_block":
        place = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        return f"middle_block.{place}.{_inside(parts[1], parts[3:])}.{kind}"
    level, what, index = int(parts[1]), parts[2], int(parts[3])
    if parts[0] == "down_blocks":
        block = 1 + level * (layers + 1)
        if what == "downsamplers":
            return f"input_blocks.{block + layers}.0.op.{kind}"
        return f"input_blocks.{block + index}.{int(what == 'attentions')}.{_inside(what, parts[4:])}.{kind}"
    block = level * (layers + 1)
    if what == "upsamplers":
        return f"output_blocks.{block + layers}.{1 + (parts[1] in up_attention)}.conv.{kind}"
    return f"output_blocks.{block + index}.{int(what == 'attentions')}.{_inside(what, parts[4:])}.{kind}"


def _inside(what: str, parts: list[str]) -> str:
    return _UNET_RESNET[parts[0]] if what == "resnets" else ".".join(parts)


def _kl_name(name: str, levels: int) -> str:
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    half, rest = parts[0], parts[1:]
    if half not in ("encoder", "decoder"):
        return name
    if rest[0] == "conv_norm_out":
        return f"{half}.norm_out.{kind}"
    if rest[0] == "mid_block":
        if rest[1] == "attentions":
            return f"{half}.mid.attn_1.{_VAE_ATTENTION['.'.join(rest[3:])]}.{kind}"
        return f"{half}.mid.block_{int(rest[2]) + 1}.{_kl_resnet(rest[3])}.{kind}"
    if rest[0] in ("down_blocks", "up_blocks"):
        # The original code counts the decoder's levels from the fine to the coarse.
        level = int(rest[1]) if rest[0] == "down_blocks" else levels - 1 - int(rest[1])
        side = rest[0].removesuffix("_blocks")
        if rest[2] == "resnets":
            return f"{half}.{side}.{level}.block.{rest[3]}.{_kl_resnet(rest[4])}.{kind}"
        return f"{half}.{side}.{level}.{side}sample.conv.{kind}"
    return name


def _kl_resnet(layer: str) -> str:
    return "nin_shortcut" if layer == "conv_shortcut" else layer
