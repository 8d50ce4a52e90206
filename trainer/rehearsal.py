"""A dry step before the first: how long one takes, and what the run will need of the memory. One that is known from an
earlier process is not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch

from . import optim
from .dataset.sampler import Presentation
from .files import digest, read_json, write_json
from .memory import Plan
from .trained import Trained
from .training import Training

MOST_KEPT = 200
"""Trials that are known for later."""


class Rehearsal(NamedTuple):
    """Args: seconds: a micro-batch takes. plan: what the run will need."""

    seconds: float
    plan: Plan


class Measured(NamedTuple):
    """What a trial gives: ``seconds`` of a micro-batch; bytes of its ``activations``, and of a sample or validation."""

    seconds: float
    activations: int
    samples: int


class Known:
    """What trials have measured on this machine, kept beside the cache.

    Args:
        folder: of the cache.
        parts: all that the time and the memory of a step depend on, as plain values.
    """

    def __init__(self, folder: Path, *parts: object) -> None:
        self._path, self._key = folder / "rehearsals.json", digest(torch.__version__, torch.get_num_threads(), *parts)

    def find(self) -> Measured | None:
        """What was measured of the same step; None if nothing was."""
        try:
            seconds, activations, samples = read_json(self._path)[self._key]
            return Measured(float(seconds), int(activations), int(samples))
        except (KeyError, TypeError, ValueError):
            return None

    def keep(self, measured: Measured) -> None:
        """Keeps it for later processes."""
        others = {key: value for key, value in read_json(self._path).items() if key != self._key}
        with suppress(OSError):  # a disk that is full or read-only: then it is measured again
            write_json(self._path, dict([*others.items(), (self._key, list(measured))][-MOST_KEPT:]))


def rehearse(
    run: Training,
    trained: Trained,
    free: int,
    *,
    twice: bool = False,
    known: Known | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Rehearsal:
    """How long a micro-batch takes, and what the run will need of the memory.

    What is not there yet is reckoned: the optimizer's state, by a step on tensors of the same shapes.

    Args:
        run: before its next step.
        trained: its model.
        free: bytes that it may take in all.
        twice: the first time does not count: a card chooses its kernels in it, and a model in RAM learns what to bring
            ahead.
        known: what was measured before.
        begin: called before a step is tried.
    """
    gauge = run.gauge
    weights, state = _size(run.parameters), optim.kept(run.optimizer)
    average = _size(run.averages.state()[0])
    frozen = trained.held()
    process = max(0, gauge.now() - frozen - weights - state - average)
    measured = known.find() if known is not None else None
    if measured is None:
        begin()
        if twice:
            _measured(run, trained, weights)
        measured = _measured(run, trained, weights)
        if known is not None:
            known.keep(measured)
    adapter = 2 * weights + (state or optim.will_keep(run.config, run.parameters)) + average
    activations = gauge.with_what_is_kept(measured.activations)
    return Rehearsal(measured.seconds, Plan(process, frozen, adapter, activations, measured.samples, free))


def replayed(run: Training) -> float:
    """Seconds that the same micro-batch takes by a recording: a part of what ``rehearse`` finds, who launches kernels
    one by one.

    Args:
        run: before its next step, with a ``recorder``.
    """
    assert run.recorder is not None
    shown, seconds = largest(run), 0.0
    for _ in range(3):  # the first of a shape is computed as usual, the second is recorded
        run.recorder.begin()
        start = time.perf_counter()
        with run.accelerator.autocast():
            batch = run.task.batch(shown, 0)
        run.recorder(batch, 1 / len(shown)).item()  # waits for the device
        seconds = time.perf_counter() - start
    return seconds


def _measured(run: Training, trained: Trained, weights: int) -> Measured:
    """Computes what is largest of all that the run will compute: an evaluation of a sample or of a validation, and
    forward and backward of a micro-batch. Nothing is kept of it.
    """
    gauge = run.gauge
    everything = list(chain.from_iterable((*model.parameters(), *model.buffers()) for model in trained.parts.values()))
    with gauge.piece(everything) as beside, trained.evaluated(), run.accelerator.autocast():
        run.task.probe(trained.model)
    shown = largest(run)
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
    return Measured(seconds, max(0, grown[0] - weights), beside[0])


def largest(run: Training) -> list[Presentation]:
    """The micro-batch with the most pixels, or tokens."""
    buckets: dict[tuple[int, int], list[Presentation]] = {}
    for item in sorted(run.items, key=lambda item: item.cost, reverse=True):
        buckets.setdefault(item.bucket, []).extend(Presentation(item, repeat) for repeat in range(item.repeats))
    micro = (shown[: run.micro_batch] for shown in buckets.values())
    return max(micro, key=lambda shown: sum(one.item.cost for one in shown))


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
