"""LoRA layers, put into a denoiser by PEFT (Hu et al., arXiv 2106.09685). A target that matches nothing raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .errors import BaseModelError, CheckpointError

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"


@dataclass(frozen=True)
class Adapted:
    """One adapted layer: the change of its weight is ``scale * up @ down``.

    Args:
        name: the module's name in the denoiser, as it was before.
        down: [r, in] or [r, in, kh, kw], the trained ``A``.
        up: [out, r] or [out, r, 1, 1], the trained ``B``.
        alpha: scale times rank.
    """

    name: str
    down: nn.Parameter
    up: nn.Parameter
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    def change(self) -> torch.Tensor:
        """The change of the weight at strength 1, [out, in(, kh, kw)], fp32."""
        return change(self.down.detach(), self.up.detach(), self.alpha)


def change(down: torch.Tensor, up: torch.Tensor, alpha: float) -> torch.Tensor:
    """``alpha / r * up @ down`` in the shape of the layer's weight, in fp32."""
    down, up = down.float(), up.float()
    flat = up.flatten(1) @ down.flatten(1)
    return (alpha / down.shape[0]) * flat.reshape(up.shape[0], *down.shape[1:])


def inject(
    model: nn.Module,
    is_target: Callable[[str, nn.Module], bool],
    *,
    rank: int,
    alpha: float,
    seed: int,
) -> None:
    """Adds a LoRA to every target of a frozen model, in place; the adapters are fp32 and the only trainable weights.

    A fresh LoRA changes nothing: ``up`` is zero, ``down`` is drawn from ``seed``.

    Raises:
        BaseModelError: nothing in the model is a target.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, module in model.named_modules() if is_target(name, module)]
    if not names:
        raise BaseModelError(
            f"no layer of the base model ({type(model).__name__}) is a LoRA target",
            "choose other lora_targets, or another base_model",
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, bias="none")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_A." in name or ".lora_B." in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    found = sum(1 for _ in layers(model))
    if found != len(names):
        raise BaseModelError(
            f"{len(names)} layers are LoRA targets, but PEFT adapted {found}", "choose other lora_targets"
        )


def layers(model: nn.Module) -> Iterator[Adapted]:
    """The adapted layers, in the model's order."""
    for name, layer in _lora_layers(model):
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        yield Adapted(name, down, up, float(layer.lora_alpha[ADAPTER]))  # type: ignore[arg-type]


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights by name, ``<module>.down`` and ``<module>.up``."""
    result: dict[str, nn.Parameter] = {}
    for layer in layers(model):
        result[f"{layer.name}.down"] = layer.down
        result[f"{layer.name}.up"] = layer.up
    return result


def load(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Puts back the weights that ``parameters`` named.

    Raises:
        CheckpointError: names or shapes differ.
    """
    mine = parameters(model)
    if mine.keys() != tensors.keys() or any(mine[n].shape != t.shape for n, t in tensors.items()):
        raise CheckpointError("the checkpoint's adapter is of another shape than this run's", "start a new run")
    with torch.no_grad():
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)


@contextmanager
def strength(model: nn.Module, value: float) -> Iterator[None]:
    """Within it the LoRA acts at a strength (1: as trained, 0: the base alone)."""
    before = [(layer, layer.scaling[ADAPTER]) for _, layer in _lora_layers(model)]
    for layer, scale in before:
        layer.scaling[ADAPTER] = scale * value
    try:
        yield
    finally:
        for layer, scale in before:
            layer.scaling[ADAPTER] = scale


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module
