"""A model of one layer of each kind with adapters and stored weights, and its twin with what these stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.trainer.adapters.small import Small, adapted
from trainer import adapters, frozen

Tensors = dict[str, torch.Tensor]
METHODS = ("lora", "dora", "lokr, both full", "loha")
LOW = ("int8", "fp8", "nf4")


def store(model: nn.Module, kind: str, keep_bytes: int | None = None) -> nn.Module:
    """A model with all its weights stored, and paged if there are bytes to keep."""
    if kind != "plain":
        frozen.quantise(model, kind, "cpu", smallest=0)
    if keep_bytes is not None:
        frozen.page(model, "cpu", keep_bytes, smallest=0)
    return model


def pair(method: str, kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[nn.Module, nn.Module]:
    """A model with adapters and stored weights, and one of plain layers that hold the same weights."""
    model, twin = (base_in(adapted(method, **changes), dtype) for _ in range(2))
    store(model, kind)
    copy_weights(model, twin)
    return model, twin


def base_in(model: Small, dtype: torch.dtype) -> Small:
    """Its frozen weights in a number format; adapters stay as they are."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def copy_weights(model: nn.Module, twin: nn.Module) -> None:
    """Gives the twin the weights that the model's storage stands for."""
    for name, layer in model.named_modules():
        if isinstance(layer, frozen.Frozen):
            other = twin.get_submodule(name)
            assert type(other) in (nn.Linear, nn.Conv2d)
            other.weight.data.copy_(layer.weight)  # type: ignore[operator, union-attr]


def step(
    model: nn.Module, dtype: torch.dtype = torch.float32, *, checkpointed: bool = False, seed: int = 0
) -> tuple[torch.Tensor, Tensors]:
    """Loss and gradients of a training step in a number format: under autocast, if it is not fp32."""
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    call: Callable[..., torch.Tensor] = model
    if checkpointed:
        call = lambda value: checkpoint(model, value, use_reentrant=False)  # type: ignore[assignment]  # noqa: E731
    for parameter in model.parameters():
        parameter.grad = None
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        # Not the leaf itself, whose cast autocast would share among the layers that take it.
        loss = call(x * 1).float().square().mean()
    loss.backward()
    assert x.grad is not None
    found = {"input": x.grad}
    for name, parameter in adapters.parameters(model).items():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return loss.detach(), found


def equal(one: tuple[torch.Tensor, Tensors], other: tuple[torch.Tensor, Tensors]) -> bool:
    """Whether two steps are the same to the bit."""
    return (
        torch.equal(one[0], other[0])
        and one[1].keys() == other[1].keys()
        and all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())
    )
