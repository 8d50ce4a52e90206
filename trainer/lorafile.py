"""LoRA files layer by layer: whatever naming they are in, and the change of a weight that they stand for.

A layer's key is kohya's (``lora_unet_down_blocks_0_...``, ``lora_te_...``), made from diffusers', PEFT's and the
original code's names where a file has those; a language model's is ComfyUI's (``text_encoders.transformer.model...``).
The arithmetic is the format's own, as ComfyUI's ``comfy/weight_adapter`` reads it; LoHa and LoKr are LyCORIS' (arXiv
2309.14859), DoRA is arXiv 2402.09353.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .errors import LoraFileError

MOST_NAMED = 3
TITLES = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}

LANGUAGE = "text_encoders.transformer."
"""What the layers of a language model begin with, in ComfyUI's files and ours."""

_PARTS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".dora_scale": "dora_scale",
    ".alpha": "alpha",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_WRITTEN = {"down": "lora_down.weight", "up": "lora_up.weight"}
# What a layer of each method consists of: every set of parts that is whole.
_WHOLE = [
    *({"down", "up", *more} for more in ((), ("mid",), ("dora_scale",), ("magnitude",))),
    *({f"hada_{p}" for p in ("w1_a", "w1_b", "w2_a", "w2_b", *more)} for more in ((), ("t1", "t2"))),
    *(
        {f"lokr_{p}" for p in (*first, *second)}
        for first in (("w1",), ("w1_a", "w1_b"))
        for second in (("w2",), ("w2_a", "w2_b"), ("w2_a", "w2_b", "t2"))
    ),
]


@dataclass(frozen=True)
class FileLayer:
    """What a file holds for one layer.

    Args:
        key: kohya's name of the layer.
        parts: its tensors: ``down``, ``up``, ``mid``, ``dora_scale`` or PEFT's ``magnitude``; ``hada_*``; ``lokr_*``.
        alpha: as the file has it; None if it has none.
    """

    key: str
    parts: Mapping[str, torch.Tensor]
    alpha: float | None = None

    @property
    def method(self) -> str:
        """``lora``, ``dora``, ``loha`` or ``lokr``."""
        if "down" in self.parts:
            return "dora" if self.parts.keys() & {"dora_scale", "magnitude"} else "lora"
        return "loha" if "hada_w1_a" in self.parts else "lokr"

    @property
    def rank(self) -> int | None:
        """r; None for a LoKr of two full matrices, whose ``alpha`` therefore means nothing."""
        for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if part in self.parts:
                return self.parts[part].shape[0]
        return None

    @property
    def scale(self) -> float:
        """What the product of the parts is multiplied with."""
        return 1.0 if self.rank is None or self.alpha is None else self.alpha / self.rank

    def change(self) -> torch.Tensor:
        """The change of the weight at strength 1, fp64: [out, in(, kh, kw)], or [out, in * kh * kw].

        Of a DoRA it is the low-rank part alone: the rest depends on the base model's weight.
        """
        p = {name: tensor.double() for name, tensor in self.parts.items()}
        if self.method in ("lora", "dora"):
            down = _with_kernel(p["down"], p["mid"]) if "mid" in p else p["down"]
            product = (p["up"].flatten(1) @ down.flatten(1)).reshape(p["up"].shape[0], *down.shape[1:])
        elif self.method == "loha":
            product = _product(p, "hada_w1", "hada_t1") * _product(p, "hada_w2", "hada_t2")
        else:
            first, second = _product(p, "lokr_w1", ""), _product(p, "lokr_w2", "lokr_t2")
            product = torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())
        return self.scale * product

    def norm(self) -> float:
        """The Frobenius norm of ``change``, without making it where there is a way around.

        ``|B A|^2 = tr(B'B A A')`` takes r x r products; that of a Kronecker product is the product of the norms.
        """
        if self.method == "loha" or "mid" in self.parts:
            return float(self.change().norm())
        p = {name: tensor.double() for name, tensor in self.parts.items()}
        if self.method == "lokr":
            both = _product(p, "lokr_w1", "").norm() * _product(p, "lokr_w2", "lokr_t2").norm()
            return abs(self.scale) * float(both)
        up, down = p["up"].flatten(1), p["down"].flatten(1)
        return abs(self.scale) * max(0.0, float(((up.T @ up) * (down @ down.T)).sum())) ** 0.5

    def flat_shape(self) -> tuple[int, int]:
        """(out, in * kh * kw) of the weight that it changes."""
        meta = FileLayer(self.key, {name: tensor.to("meta") for name, tensor in self.parts.items()}, self.alpha)
        shape = meta.change().flatten(1).shape
        return shape[0], shape[1]

    def plain_down(self) -> torch.Tensor:
        """``down`` of a LoRA, with the middle tensor of a Tucker decomposition multiplied into it."""
        down = self.parts["down"].float()
        return _with_kernel(down, self.parts["mid"].float()) if "mid" in self.parts else down

    def written(self) -> dict[str, torch.Tensor]:
        """Its tensors under kohya's names, as they go into a file."""
        result = {f"{self.key}.{_WRITTEN.get(name, name)}": tensor for name, tensor in self.parts.items()}
        if self.alpha is not None:
            result[f"{self.key}.alpha"] = torch.tensor(self.alpha, dtype=torch.float32)
        return result


def parse(tensors: Mapping[str, torch.Tensor], source: str = "the file") -> dict[str, FileLayer]:
    """The layers of a LoRA file by kohya's key, in the file's order.

    Args:
        tensors: of the file, in kohya's, diffusers', PEFT's or the original code's naming.
        source: what errors call it.

    Raises:
        LoraFileError: a tensor is of no kind known here, a layer is incomplete or there twice, or there is none.
    """
    two_encoders = any(name.startswith(("text_encoder_2.", "lora_te2_")) for name in tensors)
    found: dict[str, dict[str, torch.Tensor]] = {}
    strange: list[str] = []
    for name, tensor in tensors.items():
        suffix = next((end for end in _PARTS if name.endswith(end)), None)
        if suffix is None:
            strange.append(name)
            continue
        key = kohya_key(name.removesuffix(suffix), "lora_te1_" if two_encoders else "lora_te_")
        parts = found.setdefault(key, {})
        if _PARTS[suffix] in parts:
            raise LoraFileError(f"{source} has two tensors for {_PARTS[suffix]} of the layer {key}")
        parts[_PARTS[suffix]] = tensor
    result: dict[str, FileLayer] = {}
    for key, parts in found.items():
        alpha = parts.pop("alpha", None)
        if parts.keys() not in _WHOLE:
            strange += [f"{key}.{_WRITTEN.get(part, part)}" for part in parts or ("alpha",)]
            continue
        result[key] = FileLayer(key, parts, None if alpha is None else float(alpha))
        try:
            result[key].flat_shape()
        except (RuntimeError, IndexError):
            shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in parts.items())
            raise LoraFileError(f"{source}: the tensors of {key} do not fit each other ({shapes})") from None
    if strange:
        raise LoraFileError(
            f"{source} has {len(strange)} tensors that are of no LoRA, DoRA, LoHa or LoKr: {named(strange)}",
            "other kinds (OFT, GLoRA, full differences) can only be used in ComfyUI as they are",
        )
    if not result:
        raise LoraFileError(f"{source} has no layers in it")
    return result


def named(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(sorted(names)[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


def canonical(key: str) -> str:
    """The key of a layer by which two files can be compared: SD1.5's encoder is ``te`` in some, ``te1`` in others."""
    return "lora_te_" + key.removeprefix("lora_te1_") if key.startswith("lora_te1_") else key


def kohya_key(module: str, first_encoder: str = "lora_te_") -> str:
    """Kohya's key, in diffusers' naming of the layers, of a module as some LoRA file names it."""
    if module.startswith("lycoris_"):
        module = "lora_unet_" + module.removeprefix("lycoris_")
    if module.startswith("lora_"):
        return _from_original(module)
    dotted = module.replace(".processor.", ".")
    if dotted.endswith(".to_out"):
        dotted += ".0"
    for prefix, short in (("unet.", "lora_unet_"), ("text_encoder_2.", "lora_te2_"), ("text_encoder.", first_encoder)):
        if dotted.startswith(prefix):
            return short + dotted.removeprefix(prefix).removeprefix("base_model.model.").replace(".", "_")
    inner = dotted.removeprefix("base_model.model.")
    if inner.startswith(("down_blocks.", "mid_block.", "up_blocks.")):
        return "lora_unet_" + inner.replace(".", "_")
    # A language model's modules, whose names PEFT leaves, and ComfyUI writes after the name of the encoder.
    encoder = r"(?:text_encoders\.(?:\w+\.)?transformer\.)?"
    if match := re.fullmatch(encoder + r"((?:model|transformer)\.\w+\.\d+\..+)", inner):
        return LANGUAGE + match[1]
    return module


_ENDS = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def _from_original(key: str) -> str:
    """The names of the original code's UNet, which kohya's trainer gives SDXL's layers, in diffusers' naming.

    Two layers a block, as SD1.5 and SDXL have; everything else comes back as it is.
    """
    head, name = "lora_unet_", key.removeprefix("lora_unet_")
    if name in _ENDS:
        return head + _ENDS[name]
    if match := re.fullmatch(r"middle_block_(\d)_(.+)", name):
        place, rest = int(match[1]), match[2]
        what = "attentions_0" if place == 1 else f"resnets_{place // 2}"
        return f"{head}mid_block_{what}_{_RESNET.get(rest, rest)}"
    if match := re.fullmatch(r"(input|output)_blocks_(\d+)_(\d)_(.+)", name):
        side, rest = {"input": "down", "output": "up"}[match[1]], match[4]
        level, index = divmod(int(match[2]) - (side == "down"), 3)
        if rest in ("op", "conv"):
            return f"{head}{side}_blocks_{level}_{side}samplers_0_conv"
        what = "attentions" if match[3] == "1" else "resnets"
        return f"{head}{side}_blocks_{level}_{what}_{index}_{_RESNET.get(rest, rest)}"
    return key


def _with_kernel(down: torch.Tensor, mid: torch.Tensor) -> torch.Tensor:
    """[r, in, 1, 1] and [r, r, kh, kw] -> [r, in, kh, kw]."""
    return torch.einsum("mnkl,nj->mjkl", mid, down.flatten(1))


def _product(parts: Mapping[str, torch.Tensor], name: str, core: str) -> torch.Tensor:
    """A matrix that is there in full, as a product, or (with a core) in Tucker form [r, r, kh, kw]."""
    if name in parts:
        return parts[name]
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    return torch.einsum("ijkl,jr,ip->prkl", parts[core], b, a) if core in parts else a @ b
