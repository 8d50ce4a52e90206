"""The names that weights have in single-file checkpoints (the original LDM code's, and TAESD's), for writing them.

Reading is diffusers' (``convert_ldm_unet_checkpoint`` and its like); it has no way back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."

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
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
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
    """A CLIPTextModel's weights under the names of a checkpoint, whatever transformers wrote them."""
    return {f"{TEXT}text_model.{n.removeprefix('text_model.')}": tensor for n, tensor in state.items()}


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
