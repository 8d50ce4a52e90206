"""One optimizer step: the gradients of a window, and what the optimizer makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from . import draws, optim
from .dataset.sampler import Window, micro_batches
from .training import Training


class Verdict:
    """Whether numbers are finite, once the device has come to them; until it is asked nobody waits.

    Args:
        finite: a bool, on the device.
    """

    def __init__(self, finite: torch.Tensor) -> None:
        self._event = None
        # From a card into pinned memory, when it gets there; of other devices there is no event that tells when.
        self._finite = finite.to("cpu", non_blocking=finite.is_cuda)
        if finite.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(finite.device))

    def __call__(self) -> bool:
        """Whether they are; waits until that is known."""
        if self._event is not None:
            self._event.synchronize()  # for this only, not for what the card was given since
        return bool(self._finite)


@dataclass(frozen=True)
class Taken:
    """An optimizer step.

    Args:
        loss: of its window.
        norm: of its gradient, before clipping.
        rate: the learning rate.
        happened: whether it did, or was skipped because loss or gradient are not finite.
        known: whether that is known already; else ``happened`` waits for the device.
    """

    loss: torch.Tensor
    norm: torch.Tensor
    rate: float
    happened: Callable[[], bool]
    known: bool = True


def step(
    run: Training, window: Window, epoch: int, rate: Callable[[], float], stop: Callable[[], bool] = lambda: False
) -> Taken:
    """One optimizer step, on all ranks.

    Args:
        run: what is trained.
        window: of which every rank takes its share.
        epoch: that the window is of.
        rate: the learning rate; asked for when the gradients are on their way, right before the weights change.
        stop: whether this process was asked to stop, if it is not the first, which knows by itself.
    """
    accelerator, ranks = run.accelerator, run.ranks
    if run.recorder is not None:
        run.recorder.begin()
    else:
        run.optimizer.zero_grad(set_to_none=True)
    with ranks.together(stop):
        own = ranks.own(run.parameters, gradients(run, window, epoch))
    total = ranks.add_up(run.parameters, own)
    norm = accelerator.clip_grad_norm_(run.parameters, run.config.max_grad_norm or math.inf)
    assert isinstance(norm, torch.Tensor)
    run.look_ahead()
    now = rate()
    optim.set_rate(run.optimizer, now)
    # fp16's scaler must see every step, to find its scale; it skips by itself. Whether it did is asked of the norm:
    # a fused optimizer skips within its kernel, of which accelerate's optimizer_step_was_skipped knows nothing.
    scaled = accelerator.scaler is not None
    finite = torch.isfinite(norm if scaled else norm + total)
    verdict = Verdict(finite)
    later = not scaled and ranks.world == 1 and optim.skip_unless(run.optimizer, finite)
    if scaled or later or verdict():
        run.whole = False
        run.optimizer.step()
    return Taken(total, norm, now, verdict, known=not later)


def gradients(run: Training, window: Window, epoch: int) -> torch.Tensor:
    """Adds to the gradients what this rank has of a window; its part of the loss."""
    ranks, size = run.ranks, run.task.size(window)
    total = torch.zeros((), device=run.accelerator.device)
    for number, shown in enumerate(micro_batches(window, run.micro_batch, ranks.rank, ranks.world)):
        if run.config.lora_dropout:  # the one draw that is torch's own; a text encoder's is made with the batch
            number = 1 + ranks.rank + number * ranks.world
            torch.manual_seed(draws.integer(2**53, run.config.seed, run.position.cursor, number, "lora dropout"))
        cursor, batch = run.ahead
        run.ahead = (-1, ())
        if cursor != run.position.cursor:
            with run.accelerator.autocast():
                batch = run.task.batch(shown, epoch)
        # Over what all ranks have of the window: their gradients are added up.
        total += (run.recorder or partial(forward_backward, run))(batch, 1 / size)
    return total


def forward_backward(run: Training, batch: Any, share: float | torch.Tensor) -> torch.Tensor:
    """Adds to the gradients what a micro-batch gives; its loss, detached.

    Args:
        run: what is trained.
        batch: of its task.
        share: what each sample counts for.
    """
    with run.accelerator.autocast():
        loss = run.task.loss(run.model, batch).sum() * share
    run.accelerator.backward(loss)
    return loss.detach()
