"""A model of one layer of each kind, adapters on it by every method, and PEFT's own merged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainer import adapters
from trainer.adapters.layers import peft_layers

Tensors = dict[str, torch.Tensor]

# How an adapter is asked for. Every case has layers of different rank and alpha.
CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "lora, alpha as rank": {"method": "lora", "alpha": None, "alphas": {}},
    "rslora": {"method": "rslora"},
    "dora": {"method": "dora"},
    "loha": {"method": "loha"},
    "lokr, both full": {"method": "lokr", "rank": 64},
    "lokr, second split": {"method": "lokr", "rank": 2, "lokr_factor": 2},
    "lokr, first split": {"method": "lokr", "rank": 2, "ranks": {"wide": 1}, "lokr_factor": 8, "decompose_both": True},
    "lokr, both split": {"method": "lokr", "rank": 1, "ranks": {}, "lokr_factor": 4, "decompose_both": True},
}


class Small(nn.Module):
    """A linear layer, a wide one without bias, a 1x1 and a 3x3 convolution of stride 2: [B, 24] -> [B, 48]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.linear = nn.Linear(24, 32)
            self.wide = nn.Linear(32, 8 * 36, bias=False)
            self.one = nn.Conv2d(8, 16, 1)
            self.inner = nn.Module()
            self.inner.three = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.wide(torch.tanh(self.linear(x))).unflatten(1, (8, 6, 6))
        return self.inner.three(torch.tanh(self.one(hidden))).flatten(1)  # type: ignore[operator]


def is_target(name: str, module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv2d))


def export_key(name: str, part: str = "unet") -> str:
    return {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + name.replace(".", "_")


def adapted(case: str, *, seed: int = 0, fresh: bool = False, **changes: Any) -> Small:
    """Adapters as a case asks for them, with values as if they had been trained."""
    model = Small()
    settings = {"rank": 4, "alpha": 6.0, "ranks": {"three": 3}, "alphas": {"three": 1.5}, **CASES[case], **changes}
    adapters.inject(model, is_target, seed=seed, **settings)
    if not fresh:
        move(model, seed)
    return model


def move(model: nn.Module, seed: int = 0, by: float = 0.2) -> None:
    """Moves every trained weight."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters(model).values():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)


def merged(model: nn.Module, strength: float) -> Tensors:
    """The weights that PEFT merges at a strength, in fp64 but for what PEFT itself computes in fp32.

    A DoRA at a strength is that much of the way from the base to PEFT's merged weight.
    """
    model = copy.deepcopy(model)
    is_dora = any(layer.method == "dora" for layer in adapters.layers(model))
    found: Tensors = {}
    with adapters.strength(model, 1.0 if is_dora else strength):
        for name, layer in peft_layers(model):
            before = layer.base_layer.weight.detach().double().clone()
            layer.merge()
            after = layer.base_layer.weight.detach().double()
            found[name] = before + strength * (after - before) if is_dora else after
    return found


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def predict(model: Callable[..., Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(5, 24, generator=torch.Generator().manual_seed(9)))
