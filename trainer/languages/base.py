"""What is known of a language model before a weight is read, and which of its layers a LoRA goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from .. import dependencies
from ..errors import BaseModelError
from ..lorafile import LANGUAGE
from ..weights import Header
from ..weights.quantised import is_note

TARGETS: Mapping[str, str] = {
    "linear": "every linear layer of the blocks: attention and feed-forward",
    "attention": "the linear layers of attention alone",
}
"""What LoRA layers may be put on -> what that means. Embeddings and ``lm_head`` never get one."""

TITLES: Mapping[str, str] = {
    "llama": "Llama",
    "mistral": "Mistral",
    "ministral3": "Ministral 3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
}
# The transformers that first knows an architecture, where ours may be older.
SINCE: Mapping[str, str] = {"qwen3": "4.51", "ministral3": "5.0"}
_NO_TEXT = ("visual.", "vision_tower.", "vision_model.", "multi_modal_projector.", "embed_vision.")
_TOKENIZERS = ("spiece_model", "tekken_model")


@dataclass(frozen=True)
class Kind:
    """A language model in a few words.

    Args:
        name: its architecture as transformers' ``model_type``, such as ``llama`` or ``qwen3``.
        title: the same for people.
        folder: a folder of transformers, not a single file.
        layers: how many blocks.
        hidden: width of the hidden states.
        vocabulary: rows of the embedding: token ids are below it.
        context: tokens that it was made for.
        numbers: parameters, without those of a part that sees pictures.
    """

    name: str
    title: str
    folder: bool
    layers: int
    hidden: int
    vocabulary: int
    context: int
    numbers: int


@dataclass(frozen=True)
class Source:
    """Where a language model is read from.

    Args:
        kind: what it is.
        header: its tensors by the names in its files, without those of a part that sees pictures.
        config: transformers' config of the language model.
    """

    kind: Kind
    header: Header
    config: Mapping[str, Any]


def check_known(path: Path, kind: str) -> None:
    """Makes sure that the transformers that is installed knows an architecture.

    Raises:
        BaseModelError: it is too old.
    """
    from importlib.metadata import version

    from packaging.version import Version

    installed = version("transformers")
    if kind in SINCE and Version(installed) < Version(SINCE[kind]):
        raise BaseModelError(
            f"{path} is a {TITLES[kind]} model, which transformers {installed} does not know",
            dependencies.cure([f"transformers>={SINCE[kind]}"]),
        )


def text_name(name: str) -> str | None:
    """A tensor's name in transformers' causal model, from its name in a file; None if it is not of the language model.

    The language model within one that sees pictures too is called in several ways, and ComfyUI's files have tokenizers
    in them.
    """
    if name in _TOKENIZERS or name.removeprefix("model.").startswith(_NO_TEXT):
        return None
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    name = name.removeprefix("language_model.")
    return name.removeprefix("model.") if name.startswith("model.lm_head.") else name


def text_only(header: Header) -> Header:
    """The part of a header that is of the language model."""
    names = [name for name in header.tensors if text_name(name) is not None]
    return Header(
        header.path, {n: header.tensors[n] for n in names}, {n: header.files[n] for n in names}, header.metadata
    )


def numbers(header: Header) -> int:
    """How many parameters the weights of a header have."""
    return sum(prod(info.shape) for name, info in header.tensors.items() if not is_note(name))


def files(header: Header) -> list[Path]:
    """The files that the tensors of a header lie in."""
    return sorted(set(header.files.values()))


def export_key(module_name: str) -> str:
    """The name in an exported LoRA of a module of transformers' causal model, without the suffix.

    ``model.layers.0.self_attn.q_proj`` -> ``text_encoders.transformer.model.layers.0.self_attn.q_proj``, which
    ComfyUI's ``model_lora_keys_clip`` maps for every language model that it loads.
    """
    return LANGUAGE + module_name


def module_name(key: str) -> str | None:
    """The module of transformers' causal model that a key in a LoRA file names; None if it names something else."""
    return key.removeprefix(LANGUAGE) if key.startswith(LANGUAGE) else None


def is_target(name: str, module: nn.Module, which: str) -> bool:
    """Whether a module of a language model gets a LoRA layer.

    Args:
        name: of the module in transformers' causal model.
        module: itself.
        which: a key of ``TARGETS``.
    """
    *parents, last = name.split(".")
    if not isinstance(module, nn.Linear) or not parents or last in ("lm_head", "embed_out", "output"):
        return False
    # Blocks are numbered; a router of experts is trained by nobody.
    if not any(part.isdigit() for part in parents) or (last == "gate" and "mlp" in parents):
        return False
    return which == "linear" or any("attn" in part or "attention" in part for part in parents)
