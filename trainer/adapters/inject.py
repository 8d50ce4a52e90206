"""Putting adapters onto a frozen model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..config import REFUSED_METHODS
from ..errors import BaseModelError, ConfigError
from .layers import ADAPTER, layers, peft_layers, weight_norm

METHODS = ("lora", "rslora", "dora", "lokr", "loha")


def inject(
    model: nn.Module,
    is_target: Callable[[str, nn.Module], bool],
    *,
    rank: int,
    alpha: float | None,
    seed: int,
    method: str = "lora",
    dropout: float = 0.0,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    lokr_factor: int = -1,
    decompose_both: bool = False,
) -> None:
    """Adds an adapter to every target of a frozen model, in place: fp32, and the only trainable weights.

    A fresh adapter changes nothing; it is a function of ``seed``.

    Args:
        model: frozen.
        is_target: of a module's name and itself.
        rank: of every layer that no pattern of ``ranks`` matches.
        alpha: likewise; None: each layer's own rank.
        seed: of the initial values.
        method: one of ``METHODS``.
        dropout: of a LoRA's, rsLoRA's or DoRA's input; of a LoKr's or LoHa's outputs, whole (``rank_dropout``). Drawn
            from torch's global generator.
        ranks: regular expression, searched in a module's name -> its rank; the first that matches counts.
        alphas: likewise, its alpha.
        lokr_factor: LoKr splits each side of a weight into this and the rest; -1: as evenly as possible.
        decompose_both: LoKr also takes its small factor as a product of rank r.

    Raises:
        BaseModelError: nothing in the model is a target.
        ConfigError: the method is none of ours, or a pattern matches no target or is no regular expression.
    """
    if method not in METHODS:
        raise ConfigError([f"lora_method: {method}: {REFUSED_METHODS.get(method, 'expected ' + ', '.join(METHODS))}"])
    names = [name for name, module in model.named_modules() if is_target(name, module)]
    if not names:
        raise BaseModelError(
            f"no layer of the base model ({type(model).__name__}) is a LoRA target",
            "choose other lora_targets, or another base_model",
        )
    own_ranks = _by_pattern("lora_ranks", ranks or {}, names)
    own_alphas = _by_pattern("lora_alphas", alphas or {}, names)
    sizes: dict[str, tuple[int, float]] = {}
    for name in names:
        size = own_ranks.get(name, rank)
        sizes[name] = (size, own_alphas.get(name, size if alpha is None else alpha))
    add(model, sizes, method, seed=seed, dropout=dropout, lokr_factor=lokr_factor, decompose_both=decompose_both)


def add(
    model: nn.Module,
    sizes: Mapping[str, tuple[int, float]],
    method: str,
    *,
    seed: int = 0,
    dropout: float = 0.0,
    lokr_factor: int = -1,
    decompose_both: bool = False,
) -> None:
    """Adapts exactly the modules of ``sizes``, name -> (rank, alpha)."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model

    # A string is matched whole; of a list PEFT would match the ends of names, too.
    common: dict[str, Any] = {
        "target_modules": _any_of(list(sizes)),
        "r": 1,
        "rank_pattern": _grouped({name: size for name, (size, _) in sizes.items()}),
        "alpha_pattern": _grouped({name: alpha for name, (_, alpha) in sizes.items()}),
    }
    if method in ("lora", "rslora", "dora"):
        config = LoraConfig(
            **common, lora_dropout=dropout, use_rslora=method == "rslora", use_dora=method == "dora", bias="none"
        )
    elif method == "loha":
        config = LoHaConfig(**common, rank_dropout=dropout)
    else:
        config = LoKrConfig(
            **common,
            rank_dropout=dropout,
            rank_dropout_scale=True,
            decompose_factor=lokr_factor,
            decompose_both=decompose_both,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, ADAPTER)
    del model.peft_config  # or PEFT would warn when a file brings layers of a second method
    for _, layer in peft_layers(model):
        _exact_magnitude(layer)
    model.requires_grad_(False)
    for layer in layers(model):
        for parameter in layer.parts.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def _exact_magnitude(layer: Any) -> None:
    """Has a DoRA layer compute its norms in fp32.

    PEFT computes them in the weight's number format. In bf16 that is 0.2 % off, of the whole weight, and not the same
    in training as in an exported file. Of a weight's row that is zero PEFT makes 0 / 0.
    """
    magnitudes = getattr(layer, "lora_magnitude_vector", None)
    if not magnitudes or magnitudes[ADAPTER].get_weight_norm is weight_norm:
        return
    weight = layer.get_base_layer().weight.detach()
    magnitudes[ADAPTER].get_weight_norm = weight_norm
    magnitudes[ADAPTER].weight.data = weight_norm(weight, torch.zeros_like(weight), 0.0)


def _any_of(names: Sequence[str]) -> str:
    return "^(?:" + "|".join(map(re.escape, names)) + ")"


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Module name -> value, as few patterns of PEFT's."""
    groups: dict[Any, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return {_any_of(names): value for value, names in groups.items()}


def _by_pattern(field: str, patterns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Module name -> value, for the names that a pattern is found in."""
    result: dict[str, Any] = {}
    problems = []
    for pattern, value in patterns.items():
        try:
            found = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            problems.append(f"{field}: {pattern!r} is no regular expression: {error}")
            continue
        if not found:
            problems.append(f"{field}: {pattern!r} is in the name of none of the {len(names)} layers to be trained")
        for name in found:
            result.setdefault(name, value)
    if problems:
        raise ConfigError(problems)
    return result
