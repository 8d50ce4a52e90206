"""Naming what a file is when it is no base model that we can train, so that the message helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BaseModelError
from ..weights import Header

_LORA = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight")
_LORA += (".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".oft_diag", ".dora_scale")
_LORA_BASE = "a LoRA is trained on top of a base model: choose the checkpoint it was made for"
_VAE = ("encoder.down.", "decoder.up.", "decoder.up_blocks.", "taesd_", "decoder.layers.")
_UPSCALER = ("conv_first.weight", "model.0.weight", "body.0.rdb1.conv1.weight")
_ORDINARY = "choose the ordinary checkpoint"


@dataclass(frozen=True)
class UNetTraits:
    """What tells the UNet families of Stable Diffusion apart.

    Args:
        prefix: what its tensors' names begin with.
        ldm: the tensors have the names of the original LDM code; else diffusers' names.
        in_channels: of the first convolution: 4, or 9 for inpainting.
        context: width of the text encoder's output; None without cross-attention.
        linear_projection: the transformers' proj_in is linear (SD2, SDXL), not a 1x1 convolution.
        embedding: width of what is embedded beside the timestep (SDXL: pooled text and sizes); None if nothing is.
    """

    prefix: str
    ldm: bool
    in_channels: int
    context: int | None
    linear_projection: bool
    embedding: int | None


def unet_traits(header: Header) -> UNetTraits | None:
    """The traits of the UNet in a file or folder; None if there is none."""
    for first, prefix, ldm in (
        ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.", True),
        ("input_blocks.0.0.weight", "", True),
        ("unet/conv_in.weight", "unet/", False),
        ("conv_in.weight", "", False),
    ):
        shape = header.shape(first)
        if shape is None or len(shape) != 4:
            continue
        names = [name for name in header.tensors if name.startswith(prefix)]
        if not ldm and not any(name.startswith(f"{prefix}down_blocks.") for name in names):
            continue
        context = next((header.tensors[n].shape[-1] for n in names if n.endswith(".attn2.to_k.weight")), None)
        projection = next((header.tensors[n].shape for n in names if n.endswith(".proj_in.weight")), ())
        embedded = (f"{prefix}{n}.weight" for n in ("label_emb.0.0", "add_embedding.linear_1", "class_embedding"))
        embedding = next((header.tensors[n].shape[-1] for n in embedded if n in header.tensors), None)
        return UNetTraits(prefix, ldm, shape[1], context, len(projection) == 2, embedding)
    return None


def refusal(header: Header, known: Sequence[str]) -> BaseModelError:
    """The error for a file or folder that no family recognises: what it is, and what to choose instead.

    Args:
        header: of the file or folder.
        known: the titles of the families that there are.
    """
    what, cure = identify(header)
    return BaseModelError(f"{header.path} is {what}", cure or f"choose a checkpoint of {' or '.join(known)}")


def identify(header: Header) -> tuple[str, str]:
    """What a file or folder is, in words, and a cure of its own if it has one (else "")."""
    names = header.tensors
    if not names:
        return "a safetensors file without tensors", ""
    if any(n.endswith(_LORA) or n.startswith("lora_unet_") for n in names):
        return "a LoRA, not a base model", _LORA_BASE
    if any(n.startswith(("control_model.", "controlnet_")) or "input_hint_block" in n for n in names):
        return "a ControlNet, not a base model", ""
    if any(n.startswith(("ip_adapter.", "image_proj.")) for n in names):
        return "an IP-Adapter, not a base model", ""
    if any("motion_modules." in n for n in names):
        return "a motion module (AnimateDiff), not a base model", ""
    if (traits := unet_traits(header)) is not None:
        return _unet(traits)
    if (transformer := _transformer(header)) is not None:
        return transformer, ""
    starts = {n.removeprefix("first_stage_model.").removeprefix("vae/") for n in names}
    if any(n.startswith(_VAE) for n in starts):
        return "a VAE, not a base model", "choose the whole checkpoint"
    if any(n.endswith(("token_embedding.weight", "embed_tokens.weight", "shared.weight")) for n in names):
        return "a text encoder or language model, not a base model of images", ""
    if any(n in ("emb_params", "clip_l", "clip_g") for n in names):
        return "a textual inversion embedding, not a base model", ""
    if any(n in _UPSCALER for n in names):
        return "an upscaler, not a base model", ""
    listed = ", ".join(list(names)[:3])
    return f"of an unknown kind ({len(names)} tensors, beginning with {listed})", ""


def _unet(traits: UNetTraits) -> tuple[str, str]:
    kind = _line(traits)
    if traits.in_channels == 9:
        return (
            f"{kind or 'a UNet'} for inpainting (9 input channels)",
            f"{_ORDINARY}: a LoRA that was trained on it works in the inpainting model, too",
        )
    if traits.in_channels != 4:
        return f"{kind or 'a UNet'} for editing, upscaling or video ({traits.in_channels} input channels)", _ORDINARY
    if kind is not None:
        return kind, ""
    embedded = f", further embedding {traits.embedding}" if traits.embedding else ""
    return f"a UNet of an unknown kind (context width {traits.context}{embedded})", ""


def _line(traits: UNetTraits) -> str | None:
    """Which of the known UNets it is, whatever goes into it."""
    if traits.embedding == 5632:
        return "a Kolors model (SDXL's UNet on another text encoder)"
    if traits.context == 2048 and traits.embedding == 2816:
        return "a Stable Diffusion XL model"
    if traits.context == 1280 and traits.embedding is not None:
        return "the SDXL refiner"
    if traits.context == 1024:
        return "a Stable Diffusion 2 model"
    return "a Stable Diffusion 1 model" if traits.context == 768 else None


def _transformer(header: Header) -> str | None:
    bare = {n.removeprefix("model.diffusion_model.").removeprefix("transformer/") for n in header.tensors}
    for start, what in (
        ("double_blocks.0.img_attn", "a FLUX-like model"),
        ("double_blocks.", "a FLUX-like model"),
        ("single_transformer_blocks.", "a FLUX-like model (in diffusers' names)"),
        ("joint_blocks.", "a Stable Diffusion 3 model"),
        ("cap_embedder.", "a Lumina or Z-Image model"),
        ("clip_txt_mapper.", "a Stable Cascade model"),
        ("clf.1.", "a Stable Cascade model"),
        ("adaln_single.", "a PixArt-like model"),
        ("t_block.", "a PixArt-like model"),
        ("patch_embedding.", "a Wan-like video model"),
        ("transformer_blocks.0.attn.add_q_proj", "a diffusion transformer (SD3, Qwen-Image and the like)"),
        ("x_embedder.", "a diffusion transformer"),
    ):
        if any(n.startswith(start) for n in bare):
            return what
    return None
