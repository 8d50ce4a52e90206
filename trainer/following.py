"""What every process but the first of a run does: what the first one tells it, order by order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch

from . import assembly, checkpoint
from .assembly import Standing
from .checkpoint import Position
from .device import resolve
from .errors import RunError, UserError, WorkerError
from .files import digest
from .gauge import Gauge, budget, hold_to, release
from .job import PARTS, Job
from .memory import Savings
from .prepare import StoppedWhilePreparing
from .ranks import Dropped, Ended, Ranks
from .rehearsal import rehearse
from .step import step
from .studio import move
from .trained import Trained
from .training import Training


@dataclass(frozen=True)
class Planned:
    """A run as this process would train it.

    Args:
        job: what is trained.
        fill: encodes this process' share of what the cache lacks.
    """

    job: Job
    fill: Callable[[Job], None] = lambda job: None


def follow(ranks: Ranks, plan: Callable[[dict[str, Any], bool], Planned], stop: Callable[[], bool]) -> None:
    """Does what the first process says, until it has nothing more to say.

    Args:
        ranks: the processes.
        plan: from the first one's settings, and whether the job is the host's, to the run.
        stop: polled at every step; the first one is told.

    Raises:
        WorkerError: the first process has gone.
    """
    follower = _Follower(ranks, plan, stop)
    try:
        order = ranks.heard()
        while True:
            try:
                follower.do(order)
            except Dropped as dropped:
                order = dropped.order
            else:
                order = ranks.heard()
    except Ended:
        return
    finally:
        follower.let_go()


class _Follower:
    def __init__(self, ranks: Ranks, plan: Callable[[dict[str, Any], bool], Planned], stop: Callable[[], bool]) -> None:
        self._ranks, self._plan, self._stop = ranks, plan, stop
        self._planned: Planned | None = None
        self._run: Training | None = None
        self._trained: Trained | None = None
        self._around = ExitStack()
        self._resting = False
        self._failure: Exception | None = None

    def do(self, order: dict[str, Any]) -> None:
        """Does what an order says. What fails is told in the answer to it, or to the next one."""
        match order:
            case {"do": "plan"}:
                self._answered(self._same_run, order)
            case {"do": "fill"}:
                self._answered(self._filled)
            case {"do": "attempt"}:
                tensors = self._ranks.share(None)  # before anything can fail: the first process waits for that
                self._answered(self._attempt, order, tensors)
            case {"do": "align"} if self._run is not None:
                self._ranks.align(self._run.parameters)
            case {"do": "step"}:
                self._step(order)
            case {"do": "pause"}:
                self._move("cpu")

    def let_go(self) -> None:
        """Forgets what is trained, and gives its memory back."""
        self._around.close()
        if self._run is not None:
            device, self._run, self._trained = self._run.gauge.device, None, None
            release(device)

    def _answered(self, do: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        try:
            said = do(*arguments)
        except (WorkerError, Ended):
            raise
        except Exception as error:
            self._ranks.answer_failure(error)
        else:
            self._ranks.answer(said)

    def _same_run(self, order: dict[str, Any]) -> dict[str, Any]:
        self._planned = self._plan(order["settings"], order["hosted"])
        own = {name: digest(part) for name, part in self._planned.job.identity().items()}
        if own != order["parts"]:
            other = [PARTS.get(name, name) for name in own if own[name] != order["parts"].get(name)]
            raise UserError(
                f"this process would train another run than rank 0: {'; '.join(other)}",
                "give every machine the same base model and data set",
            )
        return {}

    def _filled(self) -> dict[str, Any]:
        assert self._planned is not None
        try:
            self._planned.fill(self._planned.job)
        except StoppedWhilePreparing:
            self._ranks.break_off()
            return {"stopped": True}
        except Exception:
            self._ranks.break_off()
            raise
        return {"stopped": False}

    def _attempt(self, order: dict[str, Any], tensors: bytes) -> dict[str, Any]:
        """Begins anew, from where the first process stands."""
        assert self._planned is not None
        self.let_go()
        self._resting, self._failure = False, None
        job, savings, mixed = self._planned.job, Savings(**order["savings"]), order["mixed"]
        position = Position(**order["position"])
        state = checkpoint.unpacked(position, order["state"], tensors) if tensors else None
        gauge = Gauge(resolve(job.config))
        hold_to(gauge.device, job.config.vram_limit)
        run, trained = assembly.put_together(job, Standing(position, state), savings, mixed, gauge, self._ranks)
        self._run, self._trained = run, trained
        release(gauge.device)
        gauge.begin()
        self._around.enter_context(assembly.computing(trained, mixed))
        free = budget(gauge.device, job.config.vram_limit)
        known = assembly.known(job, run, savings, mixed)
        seconds, plan = rehearse(run, trained, free, twice=savings.paged or gauge.device.type != "cpu", known=known)
        run.recorder = assembly.recorder(run, savings, plan, lambda why: print(why, file=sys.stderr))
        return {"seconds": seconds, "plan": asdict(plan)}

    def _step(self, order: dict[str, Any]) -> None:
        """This process' share of a step. If it fails after the gradients were added up, the next answer tells that."""
        run = self._run
        if self._failure is not None or run is None:
            with suppress(Exception), self._ranks.together():
                raise self._failure or RunError("there is nothing to train")
            return
        self._move(run.accelerator.device)
        run.position.cursor, run.position.step = order["cursor"], order["step"]
        epoch, window = run.next_window()
        try:
            if step(run, window, epoch, lambda: order["rate"], self._stop).happened():
                run.averages.update()
        except (Dropped, Ended, WorkerError):
            raise
        except Exception as error:
            self._failure = error.with_traceback(None)  # the frames hold what was being computed

    def _move(self, device: torch.device | str) -> None:
        rests = device == "cpu" and self._run is not None
        if self._run is None or self._trained is None or rests == self._resting:
            return
        move(self._run, self._trained, device)
        self._resting = rests
