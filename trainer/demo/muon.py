"""Muon (Keller Jordan, 2024): momentum whose update is orthogonalised, for matrices and flattened convolutions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then five Newton-Schulz steps; matrices of one shape are done together.

    Args:
        params: Weights of two dimensions or more.
        lr: Rate; an update's entries have about the same size whatever the shape.
        momentum: Of the gradient's running sum.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            same_shape: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                same_shape[tuple(update.shape)].append((weight, update))  # type: ignore[index]
            for (rows, columns), pairs in same_shape.items():
                updates = _orthogonal(torch.stack([update for _, update in pairs]))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (weight, _), update in zip(pairs, updates, strict=True):
                    weight.add_(update.view_as(weight), alpha=-rate)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """[N, R, C] to about their nearest orthogonal matrices, by a quintic Newton-Schulz iteration."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(1, 2), keepdim=True).bfloat16() + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()
