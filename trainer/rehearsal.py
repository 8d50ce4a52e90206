"""A dry step before the first: how long one takes, and what the run will need of the memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import torch

from . import optim
from .dataset.sampler import Presentation
from .loop import Training
from .memory import Plan
from .trained import Trained


class Rehearsal(NamedTuple):
    """Args: seconds: a micro-batch takes. plan: what the run will need."""

    seconds: float
    plan: Plan


def rehearse(run: Training, trained: Trained, free: int, *, twice: bool = False) -> Rehearsal:
    """Computes what is largest of all that the run will compute; nothing is kept of it.

    Measured are one evaluation of a sample or of a validation, and forward and backward of a micro-batch. What is not
    there yet is reckoned: the optimizer's state, by a step on tensors of the same shapes.

    Args:
        run: before its next step.
        trained: its model.
        free: bytes that it may take in all.
        twice: the first time does not count: a card chooses its kernels in it, and a model in RAM learns what to bring
            ahead.
    """
    if twice:
        rehearse(run, trained, free)
    gauge = run.gauge
    weights, state = _size(run.parameters), optim.kept(run.optimizer)
    average = _size(run.averages.state()[0])
    frozen = trained.held()
    process = max(0, gauge.now() - frozen - weights - state - average)

    everything = list(chain.from_iterable((*model.parameters(), *model.buffers()) for model in trained.parts.values()))
    with gauge.piece(everything) as beside, trained.evaluated(), run.accelerator.autocast():
        run.task.probe(trained.model)
    shown = _largest(run)
    with gauge.piece(everything) as grown:
        if run.config.window > len(shown):  # gradients of the micro-batches before are there already
            for parameter in run.parameters:
                parameter.grad = torch.zeros_like(parameter)
        start = time.perf_counter()
        with run.accelerator.autocast():
            loss = run.task.loss(run.model, run.task.batch(shown, 0)).sum()
        loss.backward()
        loss.detach().item()  # waits for the device
        seconds = time.perf_counter() - start
    del loss
    for parameter in run.parameters:
        parameter.grad = None
    adapter = 2 * weights + (state or optim.will_keep(run.config, run.parameters)) + average
    activations = gauge.with_what_is_kept(max(0, grown[0] - weights))
    return Rehearsal(seconds, Plan(process, frozen, adapter, activations, beside[0], free))


def _largest(run: Training) -> list[Presentation]:
    """The micro-batch with the most pixels, or tokens."""
    buckets: dict[tuple[int, int], list[Presentation]] = {}
    for item in sorted(run.items, key=lambda item: item.cost, reverse=True):
        buckets.setdefault(item.bucket, []).extend(Presentation(item, repeat) for repeat in range(item.repeats))
    micro = (shown[: run.micro_batch] for shown in buckets.values())
    return max(micro, key=lambda shown: sum(one.item.cost for one in shown))


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
