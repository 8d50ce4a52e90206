"""The cross-entropy of a language model's last layer, without ever holding all of its logits.

151,000 words times 2,048 positions are 1.2 GB in fp32, and as much again for their gradient. What goes back into the
model is one vector a token. So the logits are made for some tokens at a time, and where a gradient is wanted it is
taken at once, before they are let go of: nothing is computed twice. (The idea is Liger Kernel's fused linear
cross-entropy, arXiv 2410.10989, in plain torch; that the head is frozen makes it simpler.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

NUMBERS = 1 << 25
"""Logits that are held at once: 128 MB in fp32."""

Head = Callable[[torch.Tensor], torch.Tensor]


def losses(hidden: torch.Tensor, labels: torch.Tensor, head: Head, numbers: int = NUMBERS) -> torch.Tensor:
    """The cross-entropy of each token, [N], fp32.

    Args:
        hidden: [N, D], what the head is given.
        labels: [N], int64, the tokens that should follow.
        head: [n, D] -> logits [n, V]; token by token, and frozen: no gradient reaches its weights.
        numbers: of the logits that are held at once.
    """
    wanted = torch.is_grad_enabled() and hidden.requires_grad
    return _Losses.apply(hidden, labels, head, numbers, wanted)  # type: ignore[no-any-return]


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, labels: torch.Tensor, head: Head, numbers: int, wanted: bool
    ) -> torch.Tensor:
        found = torch.empty(len(labels), device=hidden.device)
        gradient = torch.empty_like(hidden, dtype=torch.float32) if wanted else None
        start, size = 0, 1  # of the first token is seen how many words there are
        while start < len(labels):
            part = slice(start, start + size)
            own = hidden[part].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                logits = head(own).float()
                each = functional.cross_entropy(logits, labels[part], reduction="none")
                if gradient is not None:
                    gradient[part] = torch.autograd.grad(each.sum(), own)[0]
            found[part] = each.detach()
            start, size = start + size, max(1, numbers // logits.shape[-1])
            del logits, each
        ctx.save_for_backward(gradient)
        ctx.dtype = hidden.dtype
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0][:, None]).to(ctx.dtype), None, None, None, None
