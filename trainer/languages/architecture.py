"""A language model's architecture in plain numbers, for a program that has its own code for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import BaseModelError, in_a_line
from ..weights import read_tensors
from .base import text_name

LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
_CURE = "choose a model of Llama's architecture: Llama, SmolLM, TinyLlama, Mistral, Qwen2, Qwen3 or Gemma 3"


@dataclass(frozen=True)
class Architecture:
    """A model of Llama's kind.

    Args:
        kind: one of ``LLAMAS``.
        vocabulary: rows of the embedding.
        hidden: width of the hidden states.
        inner: width of the feed-forward layers.
        layers: blocks.
        heads: of the queries.
        groups: of keys and values.
        head: width of a head.
        context: tokens that it was made for.
        eps: of the norms.
        theta: the base of the rotary embedding; of Gemma's that slide, the second.
        slowed: what each frequency of the first is divided by, [head / 2]; None: by nothing.
        bias: queries, keys and values have one.
        normed: queries and keys have a norm.
        sliding: of each block the tokens it looks back, 0 for all; empty where all look at all.
        tied: the head is the embedding.
    """

    kind: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head: int
    context: int
    eps: float
    theta: tuple[float, ...]
    slowed: tuple[float, ...] | None
    bias: bool
    normed: bool
    sliding: tuple[int, ...]
    tied: bool


def architecture(path: Path) -> Architecture:
    """The architecture of a language model, if it is Llama's.

    Raises:
        BaseModelError: it is another one, or has what these numbers do not say; or as ``detect``.
    """
    from transformers import AutoConfig

    from . import source_of

    source = source_of(path)
    kind = source.kind.name
    if kind not in LLAMAS:
        raise BaseModelError(f"{path} is a {source.kind.title} model, not of Llama's architecture", _CURE)
    plain = {key: value for key, value in source.config.items() if key != "model_type"}
    try:
        config: Any = AutoConfig.for_model(kind, **plain)
    except Exception as error:
        raise BaseModelError(f"{path} is no {source.kind.title} model: {in_a_line(error)}", _CURE) from error
    gemma = kind == "gemma3_text"
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    activation = config.hidden_activation if gemma else config.hidden_act
    for found, expected, what in (
        (activation, "gelu_pytorch_tanh" if gemma else "silu", "activation"),
        (bool(getattr(config, "mlp_bias", False)), False, "bias in its feed-forward layers"),
        (kind != "qwen2" and bool(getattr(config, "attention_bias", False)), False, "bias in its attention"),
        (getattr(config, "query_pre_attn_scalar", size), size, "scale of its attention"),
        (getattr(config, "final_logit_softcapping", None), None, "cap of its logits"),
    ):
        if found != expected:
            raise BaseModelError(f"{path}: {what}: {found}; only {expected} is known here", _CURE)
    theta, slowed = _rotary(path, config, size, gemma)
    return Architecture(
        kind=kind,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        head=size,
        context=config.max_position_embeddings,
        eps=config.rms_norm_eps,
        theta=theta,
        slowed=slowed,
        bias=kind == "qwen2",
        normed=kind in ("qwen3", "gemma3_text"),
        sliding=_sliding(config) if gemma else (),
        tied="lm_head.weight" not in {text_name(name) for name in source.header.tensors},
    )


def weights(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of a language model by transformers' names, on the CPU.

    Raises:
        BaseModelError: as ``detect``.
    """
    from . import source_of

    found = read_tensors(source_of(path).header, "", dtype)
    return {text_name(name) or name: tensor for name, tensor in found.items()}


def _sliding(config: Any) -> tuple[int, ...]:
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # transformers before 4.54
        every = getattr(config, "sliding_window_pattern", 6)
        kinds = ["full" if (i + 1) % every == 0 else "sliding_attention" for i in range(config.num_hidden_layers)]
    return tuple(config.sliding_window if kind == "sliding_attention" else 0 for kind in kinds)


def _rotary(path: Path, config: Any, size: int, gemma: bool) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """The bases, and what the frequencies of the first are divided by."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    said = getattr(config, "rope_parameters", None)
    if said is None:  # transformers 4
        said = {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
        local = {"rope_theta": getattr(config, "rope_local_base_freq", 1e4)}
    else:
        local = said.get("sliding_attention", {})
        said = said.get("full_attention", said)
    kind = said.get("rope_type", said.get("type", "default"))
    theta = float(said["rope_theta"])
    both = (theta, float(local.get("rope_theta", 1e4))) if gemma else (theta,)
    if kind == "default":
        return both, None
    if kind == "linear":
        return both, (float(said["factor"]),) * (size // 2)
    if kind != "llama3" or gemma:
        raise BaseModelError(f"{path}: rotary embedding of the kind {kind}, which ComfyUI cannot compute", _CURE)
    slow, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = theta ** -(torch.arange(0, size, 2).float() / size)
    return both, tuple((plain / slow.float()).tolist())
