"""What a task is: how a window of samples becomes a loss. The loop knows tasks, not model families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ..dataset.sampler import Presentation


class Task(Protocol):
    """One kind of training: images, or text."""

    def batch(self, shown: Sequence[Presentation], epoch: int) -> Any:
        """The samples of a window, or of a slice of it, with their draws for this epoch, on the device."""
        ...

    def size(self, window: Sequence[Presentation]) -> int:
        """What the losses of a window are divided by once they are summed: its samples, or what these count for."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The loss of each sample, [B], fp32, with its graph; of a text the sum over its tokens."""
        ...

    def check(self, model: nn.Module) -> None:
        """Makes sure that the model still predicts something, before it is saved.

        Raises:
            RunError: it does not.
        """
        ...

    def validate(self, model: nn.Module) -> Iterator[tuple[str, dict[str, float]]]:
        """The loss on fixed samples and draws, the same every time.

        Yields:
            a signal (``events.HELD_OUT``, ``TRAIN`` or ``DRIFT``), and its losses by pair, ``<sample>@<draw>``.
        """
        ...

    def band(self, pair: str) -> str:
        """Which part of the schedule a pair lies in, for curves; empty where the task has no such parts."""
        ...

    def probe(self, model: nn.Module) -> None:
        """Computes the largest of what ``check``, ``validate`` and ``sample`` evaluate at once, for its memory."""
        ...

    def sample(self, model: nn.Module, index: int) -> torch.Tensor | str:
        """What the model makes of the job's prompt ``index``: latents, or an answer; the same draws every time."""
        ...
