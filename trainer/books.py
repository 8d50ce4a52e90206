"""What is written down of each step, once it is known whether it happened."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from . import optim
from .errors import DivergedError, RunError
from .events import Event, Step, Warned
from .runfolder import save_steps
from .step import Taken
from .training import Training

SKIPS_ALLOWED = 5  # in a row, with a loss that is not finite
OVERFLOWS_ALLOWED = 20  # in a row: fp16 may need a few until its loss scale has come down
UNSTABLE = (
    "lower learning_rate, or train with mixed_precision: bf16 or no; "
    "check that the base model itself draws good pictures"
)


class Books:
    """What is written down of each step, once it is known whether it happened: where the run is, its average, its log.

    With an optimizer that skips by itself this may be done when the next step is already being computed.

    Args:
        run: whose steps.
        emit: takes events.
    """

    def __init__(self, run: Training, emit: Callable[[Event], None]) -> None:
        self._run, self._emit = run, emit
        self.clock = Clock(run.position.step)
        self._open: tuple[Taken, int] | None = None
        self._losses: list[torch.Tensor] = []
        self._overflows = 0
        self.stepped = False
        """Whether the step that was closed last happened."""

    @property
    def coming(self) -> int:
        """The number of the step that comes next, if the one that is open happened."""
        return self._run.position.step + 1 + (self._open is not None)

    @property
    def are_open(self) -> bool:
        """Whether it is not written down yet that a step was taken."""
        return self._open is not None

    def due(self, step: int, validates: Callable[[int], bool]) -> list[str]:
        """What the settings have done after a step: of ``save``, ``validate``, ``sample`` those that are due.

        Args:
            step: its number.
            validates: whether a validation is due at a step between the first and the last.
        """
        config, position = self._run.config, self._run.position
        ended = position.cursor == position.total
        found = {
            "save": ended or every(save_steps(config, position.total), step),
            "validate": config.validation_steps and (ended or validates(step)),
            "sample": config.sample_every and (ended or every(config.sample_every, step)),
        }
        return [what for what, is_due in found.items() if is_due]

    def concern(self, validates: Callable[[int], bool]) -> bool:
        """Whether there is something to do or to tell right after the open step, if it happened.

        Args:
            validates: as in ``due``.
        """
        step = self._run.position.step + 1
        return self._is_told(step) or bool(self.due(step, validates))

    def open(self, taken: Taken, epoch: int) -> None:
        """A step was taken, in an epoch."""
        self._open = taken, epoch
        self._run.position.cursor += 1

    def rate(self) -> float:
        """The learning rate of the next step: the books of the one before are closed for it."""
        self.close()
        return next_rate(self._run)

    def close(self) -> None:
        """Closes the books on the step that is open, if one is.

        Raises:
            DivergedError: too many losses in a row were not finite.
            RunError: fp16 overflowed too many times in a row.
        """
        if self._open is None:
            return
        (taken, epoch), self._open = self._open, None
        run, position, loss = self._run, self._run.position, taken.loss
        self.stepped = stepped = taken.happened()
        overflowed = not stepped and run.accelerator.scaler is not None and math.isfinite(float(loss))
        position.cursor -= overflowed
        position.skipped = 0 if stepped else position.skipped + (not overflowed)
        position.step += stepped
        self._overflows = self._overflows + 1 if overflowed else 0
        ended = position.cursor == position.total
        if not stepped:
            what = "its gradient" if math.isfinite(float(loss)) else f"loss {float(loss):g}"
            self._emit(Warned(f"step {position.step + 1} was not finite ({what}) and is skipped"))
            if position.skipped >= SKIPS_ALLOWED or (ended and position.step == 0):
                raise DivergedError(f"{position.skipped} steps in a row were not finite", UNSTABLE)
            if self._overflows >= OVERFLOWS_ALLOWED:
                raise RunError(f"{self._overflows} steps in a row were not finite, whatever fp16's scale", UNSTABLE)
        else:
            run.averages.update()
            self._losses.append(loss)
            if self._is_told(position.step):
                self._tell(taken, epoch)
        run.whole = True

    def _is_told(self, step: int) -> bool:
        position = self._run.position
        return step == 1 or every(self._run.config.log_interval, step) or position.cursor == position.total

    def _tell(self, taken: Taken, epoch: int) -> None:
        position = self._run.position
        mean, self._losses = float(torch.stack(self._losses).mean()), []
        seconds = self.clock.per_step(position.step)
        left = seconds * (position.total - position.cursor)
        memory = self._run.gauge.most()
        told = position.step, position.total, epoch, mean, taken.rate, float(taken.norm), seconds, memory, left
        self._emit(Step(*told))


class Clock:
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


def next_rate(run: Training) -> float:
    """The learning rate of the next step."""
    position = run.position
    return optim.rate(run.config, position.step, position.total, position.extended_at) * 0.5**position.halved


def every(interval: int, step: int) -> bool:
    """Whether a step is one of every so many; of 0 none is."""
    return interval > 0 and step % interval == 0
