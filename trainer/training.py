"""A run while it trains: what is trained, what trains it, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .averages import Averages
from .checkpoint import Position
from .config import TrainConfig
from .control import Requests
from .dataset.sampler import Window, micro_batches, windows
from .gauge import Gauge
from .ranks import Ranks
from .recorded import Recorder
from .tasks.base import Task

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Training:
    """The trained things and their order.

    Args:
        config: the run's settings.
        items: the images, or texts, that are trained on.
        task: makes batches and losses.
        model: the denoiser, or the language model, with its adapters, prepared by accelerate.
        optimizer: over the adapters, prepared by accelerate.
        parameters: the adapters.
        accelerator: precision.
        position: where the run is; moved on in place.
        per_epoch: windows in an epoch.
        averages: of the adapters.
        gauge: of the device's memory.
        ranks: the processes that train this together.
        batch: samples in a micro-batch; 0: as configured. Less of them is what a run gives up to fit its memory.
        saved: the step of the last checkpoint.
        due: what is to be done before the next step, in order: ``save``, ``validate``, ``sample``.
        asked: the requests that were seen already.
        whole: false while an optimizer step is under way: until it is done, a part of the weights may have moved.
        doing: what is being done, in words.
        step_seconds: what an optimizer step takes, by a trial; 0: not tried.
        enough: whether it is of no use to train on.
        recorder: computes micro-batches by recordings; None: kernel by kernel.
        ahead: the first micro-batch of the window at a cursor, made while the card computed the one before.
    """

    config: TrainConfig
    items: Sequence[Any]
    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]
    accelerator: Accelerator
    position: Position
    per_epoch: int
    averages: Averages
    gauge: Gauge
    ranks: Ranks = field(default_factory=Ranks)
    batch: int = 0
    saved: int = 0
    due: list[str] = field(default_factory=list)
    asked: Requests = field(default_factory=Requests)
    whole: bool = True
    doing: str = ""
    step_seconds: float = 0.0
    enough: bool = False
    recorder: Recorder | None = None
    ahead: tuple[int, Any] = (-1, ())
    _epoch: tuple[int, list[Window]] = (-1, [])

    def next_window(self, further: int = 0) -> tuple[int, Window]:
        """The epoch in which the run is, and the window that is next in it; or one that comes ``further`` on."""
        epoch, index = divmod(self.position.cursor + further, self.per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = epoch, windows(self.items, seed=self.config.seed, epoch=epoch, size=self.config.window)
        return epoch, self._epoch[1][index]

    def look_ahead(self) -> None:
        """Makes the next window's first micro-batch, on a card: it computes meanwhile."""
        cursor = self.position.cursor + 1
        if self.gauge.device.type != "cuda" or self.config.train_text_encoder or cursor >= self.position.total:
            return
        epoch, window = self.next_window(1)
        if micro := micro_batches(window, self.micro_batch, self.ranks.rank, self.ranks.world):
            self.ahead = cursor, self.task.batch(micro[0], epoch)

    @property
    def micro_batch(self) -> int:
        """Samples in a micro-batch."""
        return min(self.batch or self.config.batch_size, self.share)

    @property
    def share(self) -> int:
        """Samples of a whole window that this process has at most."""
        return -(-self.config.window // self.ranks.world)
