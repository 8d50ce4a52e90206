"""The weights that are shown and saved: the trained ones, or an average of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import optim


class Averages:
    """An exponential moving average of the adapters, if one is wanted, and what an averaging optimizer keeps.

    The average is diffusers' ``EMAModel``; its decay rises to the configured one as the run goes on
    (``(1 + n) / (10 + n)`` after n steps), so that the first steps do not weigh for ever.

    Args:
        parameters: the adapters.
        optimizer: over them.
        decay: of the average; 0 for none.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Any, decay: float) -> None:
        from diffusers.training_utils import EMAModel

        self._parameters, self._optimizer = list(parameters), optimizer
        self._ema: Any = EMAModel(self._parameters, decay=decay) if decay else None

    def update(self) -> None:
        """After an optimizer step."""
        if self._ema is not None:
            self._ema.step(self._parameters)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within it the adapters hold what is shown and saved."""
        with optim.averaged(self._optimizer):
            if self._ema is None:
                yield
                return
            self._ema.store(self._parameters)
            self._ema.copy_to(self._parameters)
            try:
                yield
            finally:
                self._ema.restore(self._parameters)

    def state(self) -> tuple[list[torch.Tensor], int]:
        """The average, a tensor a parameter, and the steps that are in it; empty without one."""
        if self._ema is None:
            return [], 0
        return [tensor.detach().cpu() for tensor in self._ema.shadow_params], self._ema.optimization_step

    def load(self, tensors: Sequence[torch.Tensor], steps: int) -> None:
        """Puts back what ``state`` gave."""
        if self._ema is not None:
            self._ema.load_state_dict(
                {**self._ema.state_dict(), "shadow_params": list(tensors), "optimization_step": steps}
            )
            self._ema.to(device=self._parameters[0].device)

    def to(self, device: torch.device | str) -> None:
        """Moves the average."""
        if self._ema is not None:
            self._ema.to(device=device)
