"""On a CUDA card: forward and backward of a micro-batch recorded once for each shape, and replayed.

A step of a denoiser is thousands of small kernels, and to launch them one by one takes longer than a quick card needs
to compute them. A CUDA graph (``torch.cuda.CUDAGraph``) launches all at once: the same kernels, to the same numbers.
The price is memory: what a recording computes in stays taken between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from .gauge import Gauge

MOST = 12
"""Recordings: each takes some memory of its own, and rare buckets are not worth it."""


class Micro(Protocol):
    """A micro-batch."""

    def tensors(self) -> list[torch.Tensor]:
        """All it consists of, in an order that is always the same."""
        ...


Compute = Callable[[Any, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Recording:
    """Args: graph: of the kernels. batch, share: what they read. loss: what they write, beside the gradients."""

    graph: Any
    batch: Micro
    share: torch.Tensor
    loss: torch.Tensor


class Recorder:
    """Computes micro-batches: the first of a shape as usual, the later ones by a recording.

    Gradients stay in the same memory from step to step, where the recordings add to them.

    Args:
        parameters: that are trained.
        compute: adds to the gradients what a micro-batch gives, and returns its loss, detached; of the two it is given,
            the second is what a sample counts for. It may draw no random numbers and ask nothing of the card.
        gauge: of the card; it is told what the recordings keep.
        tell: takes what a person should know.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], compute: Compute, gauge: Gauge, tell: Callable[[str], None]
    ) -> None:
        self._parameters, self._compute = list(parameters), compute
        self._gauge, self._tell = gauge, tell
        self._gradients: list[torch.Tensor] = []
        self._known: dict[tuple[Any, ...], _Recording | None] = {}
        self._pool: Any = None
        self._kept = 0
        self._failed = False

    def begin(self) -> None:
        """Before the first micro-batch of a step: all gradients are zero."""
        if not self._gradients:
            self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        else:
            torch._foreach_zero_(self._gradients)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def __call__(self, batch: Micro, share: float) -> torch.Tensor:
        """Adds to the gradients what a micro-batch gives; its loss.

        Args:
            batch: on the card; a recording may keep it, and write the next one into it.
            share: what each sample counts for.
        """
        given = batch.tensors()
        counts = torch.full((), share, device=given[0].device)
        shape = tuple((tuple(tensor.shape), tensor.dtype) for tensor in given)
        if shape not in self._known:  # the card chooses its kernels, which cannot be recorded
            self._known[shape] = None
            return self._compute(batch, counts)
        recording = self._known[shape] or self._recorded(shape, batch, counts)
        if recording is None:
            return self._compute(batch, counts)
        torch._foreach_copy_([*recording.batch.tensors(), recording.share], [*given, counts])
        recording.graph.replay()
        return recording.loss.clone()

    def forget(self) -> None:
        """Lets go of all recordings and their memory. What they read may be moved after that."""
        self._known, self._pool, self._gradients = {}, None, []
        for parameter in self._parameters:
            parameter.grad = None
        self._keep(0)

    def _recorded(self, shape: tuple[Any, ...], batch: Micro, share: torch.Tensor) -> _Recording | None:
        """A recording of a shape; None where there are enough, or it cannot be made."""
        if self._failed or sum(one is not None for one in self._known.values()) >= MOST:
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            with self._gauge.piece() as grown, torch.cuda.graph(graph, pool=self._pool):
                loss = self._compute(batch, share)
        except RuntimeError as error:
            self._failed = True
            why = str(error).splitlines()[0]
            self._tell(f"a step cannot be recorded on this card ({why}): its kernels are launched one by one")
            return None
        self._pool = graph.pool()
        self._keep(max(self._kept, grown[0]))  # one after another, all compute in the same memory
        self._known[shape] = recording = _Recording(graph, batch, share, loss)
        return recording

    def _keep(self, size: int) -> None:
        self._kept = size
        self._gauge.keep(size)
