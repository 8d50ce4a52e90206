"""The training loop: a page, read from top to bottom. Events go out, requests come in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from . import draws, optim
from .averages import Averages
from .checkpoint import Position
from .config import TrainConfig
from .control import Requests
from .dataset.sampler import Window, micro_batches, windows
from .errors import DivergedError, RunError
from .events import Event, Step, Warned
from .gauge import Gauge
from .ranks import Ranks
from .recorded import Recorder
from .runfolder import save_steps
from .tasks.base import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

SKIPS_ALLOWED = 5  # in a row, with a loss that is not finite
OVERFLOWS_ALLOWED = 20  # in a row: fp16 may need a few until its loss scale has come down
UNSTABLE = (
    "lower learning_rate, or train with mixed_precision: bf16 or no; "
    "check that the base model itself draws good pictures"
)


class Studio(Protocol):
    """What the loop asks for between two steps."""

    def validate(self, position: Position) -> bool:
        """Measures the objective on the fixed set, if that is due. Returns whether training on is of no use."""
        ...

    def sample(self, position: Position) -> None:
        """Draws the samples."""
        ...

    def save(self, position: Position) -> None:
        """Writes a checkpoint."""
        ...

    def pause(self) -> None:
        """Gives the device back until it is asked to go on, or to stop."""
        ...


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


def train(run: Training, studio: Studio, requests: Callable[[], Requests], emit: Callable[[Event], None]) -> bool:
    """Trains from ``run.position`` to its total, or until its validations say that this is of no use.

    Returns whether it came to that end; False: it was asked to stop.

    One optimizer step is one window: gradients are divided by the samples (of texts: the tokens) truly in it, the
    schedule and the counter move only when the optimizer did. A window whose gradients overflowed in fp16 is done again
    with a smaller scale; one whose loss is not finite is passed over.

    What is due between two steps stays in ``run.due`` until it is done: if it fails, the run as it then is can go on
    with it.

    Raises:
        DivergedError: too many losses in a row were not finite.
        RunError: fp16 overflowed too many times in a row.
    """
    config, position = run.config, run.position
    clock, losses, overflows = _Clock(position.step), [], 0
    interrupted = bool(run.due)
    if config.validation_steps and "validate" not in run.due:
        # Before the first step; or where the process ended between a checkpoint and its validation.
        run.due.insert(0, "validate")
    _do_what_is_due(run, studio, clock)
    if interrupted and requests().stop:
        return run.enough or position.cursor == position.total

    while not run.enough and position.cursor < position.total:
        epoch, window = run.next_window()
        rate = optim.rate(config, position.step, position.total, position.extended_at) * 0.5**position.halved
        run.doing = f"training step {position.step + 1}"
        run.ranks.tell("step", cursor=position.cursor, step=position.step, rate=rate)
        loss, norm, stepped = step(run, window, epoch, rate)
        overflowed = not stepped and run.accelerator.scaler is not None and math.isfinite(float(loss))
        position.cursor += not overflowed
        position.skipped = 0 if stepped else position.skipped + (not overflowed)
        position.step += stepped
        overflows = overflows + 1 if overflowed else 0
        ended = position.cursor == position.total

        if not stepped:
            what = "its gradient" if math.isfinite(float(loss)) else f"loss {float(loss):g}"
            emit(Warned(f"step {position.step + 1} was not finite ({what}) and is skipped"))
            if position.skipped >= SKIPS_ALLOWED or (ended and position.step == 0):
                raise DivergedError(f"{position.skipped} steps in a row were not finite", UNSTABLE)
            if overflows >= OVERFLOWS_ALLOWED:
                raise RunError(f"{overflows} steps in a row were not finite, whatever fp16's scale", UNSTABLE)
        else:
            run.averages.update()
            losses.append(loss)
            if position.step == 1 or _due(position.step, config.log_interval) or ended:
                mean, losses = float(torch.stack(losses).mean()), []
                seconds = clock.per_step(position.step)
                left = seconds * (position.total - position.cursor)
                memory = run.gauge.most()
                emit(Step(position.step, position.total, epoch, mean, rate, float(norm), seconds, memory, left))
        run.whole = True

        before, run.asked = run.asked, requests()
        stop = run.asked.stop and not ended
        due = (stepped or ended) and not stop  # a stop only saves, so that Cancel is quick
        # Saved first: a validation or a sample that fails (out of memory) must not cost the steps.
        if position.step != run.saved and (
            ended
            or stop
            or run.asked.save > before.save
            or (due and _due(position.step, save_steps(config, position.total)))
        ):
            run.due.append("save")
        if due and config.validation_steps:  # the studio knows at which steps
            run.due.append("validate")
        if run.asked.sample > before.sample or (
            due and config.sample_every and (_due(position.step, config.sample_every) or ended)
        ):
            run.due.append("sample")
        _do_what_is_due(run, studio, clock)
        if stop:
            return False
        if run.asked.rests and not (ended or run.enough):
            clock.outside(studio.pause)
    return True


def _do_what_is_due(run: Training, studio: Studio, clock: _Clock) -> None:
    doings = {"save": "saving", "validate": "validating", "sample": "drawing samples"}
    while run.due:
        what = run.due[0]
        run.doing = f"{doings[what]} at step {run.position.step}"
        over = clock.outside(partial(getattr(studio, what), run.position))
        run.due.pop(0)
        if what == "save":
            run.saved = run.position.step
        if what == "validate" and over:  # as at the last step
            run.enough = True
            if run.position.step != run.saved:
                run.due.insert(0, "save")
            if run.config.sample_every and "sample" not in run.due:
                run.due.append("sample")


def step(
    run: Training, window: Window, epoch: int, rate: float, stop: Callable[[], bool] = lambda: False
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """One optimizer step, on all ranks: its loss, the gradient's norm before clipping, and whether it happened.

    Args:
        run: what is trained.
        window: of which every rank takes its share.
        epoch: that the window is of.
        rate: the learning rate.
        stop: whether this process was asked to stop, if it is not the first, which knows by itself.
    """
    accelerator, ranks = run.accelerator, run.ranks
    optim.set_rate(run.optimizer, rate)
    if run.recorder is not None:
        run.recorder.begin()
    else:
        run.optimizer.zero_grad(set_to_none=True)
    with ranks.together(stop):
        own = ranks.own(run.parameters, _gradients(run, window, epoch))
    total = ranks.add_up(run.parameters, own)
    norm = accelerator.clip_grad_norm_(run.parameters, run.config.max_grad_norm or math.inf)
    assert isinstance(norm, torch.Tensor)
    run.look_ahead()
    # fp16's scaler must see every step, to find its scale; it skips by itself. Whether it did is asked of the norm:
    # a fused optimizer skips within its kernel, of which accelerate's optimizer_step_was_skipped knows nothing.
    if accelerator.scaler is not None:
        run.whole = False
        run.optimizer.step()
        return total, norm, bool(torch.isfinite(norm))
    stepped = bool(torch.isfinite(norm + total))
    if stepped:
        run.whole = False
        run.optimizer.step()
    return total, norm, stepped


def _gradients(run: Training, window: Window, epoch: int) -> torch.Tensor:
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


class _Clock:
    """Seconds per optimizer step, without what is done between steps."""

    def __init__(self, step: int) -> None:
        self._since, self._step, self._away = time.perf_counter(), step, 0.0

    def outside(self, do: Callable[[], Any]) -> Any:
        """Does something that is no training, and returns what it gives."""
        start = time.perf_counter()
        done = do()
        self._away += time.perf_counter() - start
        return done

    def per_step(self, step: int) -> float:
        """Mean seconds per step since the last call."""
        now = time.perf_counter()
        mean = (now - self._since - self._away) / max(1, step - self._step)
        self._since, self._step, self._away = now, step, 0.0
        return mean


def _due(step: int, every: int) -> bool:
    return step % every == 0
