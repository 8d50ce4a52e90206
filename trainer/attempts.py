"""Attempts at a run: each gives up a little more to fit the memory, or halves the rate, until one gets to the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import assembly, checkpoint, memory
from .assembly import Standing
from .checkpoint import Position, State
from .config import Precision
from .control import Requests
from .device import card_name, precision, resolve
from .errors import DivergedError, OutOfMemoryError
from .events import Event, MemoryPlan, Phase, RunStarted, Warned
from .gauge import GB, Gauge, budget, hold_to, ram_free, release, swap_free
from .job import Item, Job, TextItem
from .loop import train
from .memory import Plan, Savings
from .ranks import Ranks
from .rehearsal import rehearse, replayed
from .runfolder import check_length
from .studio import Studio
from .trained import Trained
from .training import Training

HALVINGS = 3  # of the rate, because losses were not finite
_DECIDE = ("batch_size", "gradient_checkpointing", "mixed_precision", "base_weights", "vram_limit")
BYTES_EACH = 4  # a LoRA file's numbers are fp32


class Result(NamedTuple):
    """How a run ended.

    Args:
        lora: as it is at the end.
        step: optimizer steps done.
        memory: what was planned, seen and given up.
        outcome: which checkpoint is best, and whether it was stopped early.
    """

    lora: dict[str, torch.Tensor]
    step: int
    memory: dict[str, Any]
    outcome: dict[str, Any]


class Attempts:
    """A job's attempts.

    What had been done stays done: the weights and all that goes with them are kept in RAM from one attempt to the
    next, unless memory was out in the middle of an optimizer step, or numbers were not finite: then it is the last
    checkpoint that counts.

    Args:
        job: what is trained.
        folder: the run folder.
        total: the run's length in windows.
        emit: takes events.
        requests: asked between steps.
        decode: for samples; None: they stay latents.
        ranks: the processes that train it together; this one leads.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        total: int,
        emit: Callable[[Event], None],
        requests: Callable[[], Requests],
        decode: Callable[[torch.Tensor], torch.Tensor] | None,
        ranks: Ranks,
    ) -> None:
        self._job, self._folder, self._total, self._ranks = job, folder, total, ranks
        self._emit, self._requests, self._decode = emit, requests, decode
        config, self._device = job.config, resolve(job.config)
        self._gauge = Gauge(self._device)
        self._begin = self._saved()
        former = self._begin.state.precision if self._begin.state is not None else ""
        self._mixed: Precision
        self._mixed, why = precision(config, self._device, former)
        if why:
            emit(Warned(why))
        self._possible = assembly.possible(job, self._mixed, self._device)
        self._of = {  # another run in this folder, other settings, another card: it begins anew with what it gives up
            **{name: getattr(config, name) for name in _DECIDE},
            "device": f"{self._device} {card_name(self._device)}".strip(),
            "run": job.run_id,
        }
        begins = assembly.begins(config, self._mixed, self._device)
        self._savings: Savings = memory.remembered(folder, self._of) or begins

    def to_the_end(self) -> Result | None:
        """Trains until it is done; None if it was asked to stop.

        Raises:
            DivergedError: losses are not finite at an eighth of the rate.
            OutOfMemoryError: there is nothing left to give up.
        """
        hold_to(self._device, self._job.config.vram_limit)
        outcome: Result | Standing | None = self._begin
        del self._begin
        while isinstance(outcome, Standing):
            outcome = self._attempt(outcome)
            release(self._device)
        return outcome

    def _attempt(self, at: Standing) -> Result | Standing | None:
        """One attempt: how it ended, or from where the next one goes on."""
        mixed: Precision = self._mixed
        if mixed == "no" and self._savings.half:
            mixed = assembly.sixteen_bits(self._job.config, self._device)
        run = studio = plan = None
        if (less := self._too_large_to_read(mixed)) is not None:
            return self._with(less, "the base model is too large for the RAM", at)
        try:
            self._emit(Phase("loading the base model"))
            self._tell_ranks(at, mixed)
            run, trained = assembly.put_together(self._job, at, self._savings, mixed, self._gauge, self._ranks)
            studio = Studio(self._job, self._folder, run, trained, self._emit, self._requests, self._decode)
            release(self._device)  # of what reading the base took
            self._gauge.begin()
            with assembly.computing(trained, mixed):
                run.doing = "trying a step"
                free = budget(self._device, self._job.config.vram_limit)
                # A card's first step is mostly the choosing of kernels: up to twenty times the time of the others.
                seconds, plan = rehearse(
                    run,
                    trained,
                    free,
                    twice=self._savings.paged or self._device.type != "cpu",
                    known=assembly.known(self._job, run, self._savings, mixed),
                    begin=lambda: self._emit(Phase("trying a step")),
                )
                for other in self._ranks.answers():  # the slowest counts, and the one with the least room
                    seconds = max(seconds, other["seconds"])
                    plan = min(plan, Plan(**other["plan"]), key=lambda plan: plan.free - plan.total)
                if not plan.fits and (less := memory.enough(plan, self._savings, self._possible)):
                    return self._with(less, f"it needs {plan.total / GB:.1f} GB, and {plan.free / GB:.1f} are free", at)
                run.recorder = assembly.recorder(run, self._savings, plan, lambda why: self._emit(Warned(why)))
                if run.recorder is not None:
                    plan, seconds = replace(plan, kept=True), replayed(run)
                run.step_seconds = seconds * -(-run.share // run.micro_batch)
                self._ranks.tell("align")
                self._ranks.align(run.parameters)
                self._tell(run, trained, mixed, plan)
                if not train(run, studio, self._requests, self._emit):
                    return None
                run.doing = "writing the LoRA"
                return Result(studio.lora(), run.position.step, self._figures(plan), studio.outcome(run.position))
        except DivergedError:
            if run is None or run.position.halved >= HALVINGS:
                raise
            return self._slower(run)
        except Exception as error:
            if not memory.ran_out(error):
                raise
        # Here the error is gone, and with it the frames that held what was being computed.
        return self._lighter(at, run, studio, plan)

    def _lighter(self, at: Standing, run: Training | None, studio: Studio | None, plan: Plan | None) -> Standing:
        """From where to go on, and with less."""
        release(self._device)
        if run is None or studio is None:
            doing, less = "loading the base model", memory.lighter_base(self._savings, self._possible)
        else:
            possible = replace(self._possible, launched=run.recorder is not None)
            doing, less = run.doing, memory.next(self._savings, possible)
            at = self._kept(run, studio)
        if less is None:
            raise memory.exhausted(doing, plan, self._job.config, str(self._device))
        return self._with(less, f"out of memory while {doing}", at)

    def _too_large_to_read(self, mixed: Precision) -> Savings | None:
        """What to give up so that the base model can be read into the RAM; None if nothing needs to be.

        Raises:
            OutOfMemoryError: it cannot: the system would end some program.
        """
        needed, free = assembly.reading(self._job, mixed), ram_free()
        if needed <= free:
            return None
        if not self._savings.half and self._possible.half:
            return replace(self._savings, half=True)
        what = f"the base model needs {needed / GB:.1f} GB of RAM while it is read, and {free / GB:.1f} GB are free"
        if needed > free + swap_free():
            raise OutOfMemoryError(what, "close other programs")
        self._emit(Warned(f"{what}: the system will swap, which takes long; close other programs"))
        return None

    def _slower(self, run: Training) -> Standing:
        """From where to go on, at half the rate."""
        at = self._saved(run)
        at.position.halved, at.position.skipped = at.position.halved + 1, 0
        where = f"step {at.position.step}" if at.position.step else "the beginning"
        rate = self._job.config.learning_rate * 0.5**at.position.halved
        self._emit(
            Warned(
                f"{run.position.skipped} steps in a row were not finite: back to {where}, with half the learning rate "
                f"({rate:.2g} at its highest)"
            )
        )
        return at

    def _with(self, less: Savings, why: str, at: Standing) -> Standing:
        name = assembly.sixteen_bits(self._job.config, self._device)
        self._emit(Warned(f"{why}: going on with {memory.told(self._savings, less, name)}"))
        self._savings = less
        memory.remember(self._folder, less, self._of)
        return at

    def _kept(self, run: Training, studio: Studio) -> Standing:
        """Where an interrupted run stands: as it is, or where it was saved, if it may be half a step further."""
        if run.whole:
            try:
                return Standing(run.position, studio.state(run.position), run.saved, run.due, run.asked)
            except Exception as error:  # what is copied may want memory too
                if not memory.ran_out(error):
                    raise
        return self._saved(run)

    def _saved(self, run: Training | None = None) -> Standing:
        """Where the newest checkpoint is that can be read; a run that is given another length has a schedule for it.

        Args:
            run: what was trained since; what it was asked counts, and that its rate was halved.
        """
        state = checkpoint.retry_older(
            self._folder,
            lambda step: checkpoint.load(self._folder, step),
            lambda message: self._emit(Warned(message)),
        )
        position = self._position(state)
        if run is not None:
            position.halved = max(position.halved, run.position.halved)
        return Standing(position, state, position.step, [], run.asked if run is not None else Requests())

    def _position(self, state: State | None) -> Position:
        if state is None:
            return Position(total=self._total)
        position = state.position
        check_length(self._folder, position.cursor, self._total)
        if position.total != self._total:
            what = f"the run's length changes from {position.total} to {self._total} steps; its schedule is recomputed"
            self._emit(Warned(what))
            position.total, position.extended_at = self._total, position.step
        return position

    def _tell_ranks(self, at: Standing, mixed: Precision) -> None:
        """Where all processes begin, and with what they give up: from what this one has, whatever became of theirs."""
        if self._ranks.world == 1:
            return
        numbers, tensors = ({}, b"") if at.state is None else checkpoint.packed(at.state)
        place = {"position": asdict(at.position), "state": numbers}
        self._ranks.tell("attempt", savings=asdict(self._savings), mixed=mixed, **place)
        self._ranks.share(tensors)

    def _tell(self, run: Training, trained: Trained, mixed: Precision, plan: Plan) -> None:
        """What is known before the first step. Its time and memory are tried, not guessed."""
        left, config = run.position.total - run.position.cursor, self._job.config
        buckets = Counter(_size(item) for item in run.items)
        trainable = sum(p.numel() for p in run.parameters)
        name = {"no": "fp32"}.get(mixed, mixed)
        self._emit(
            RunStarted(
                self._job.name,
                run.position.step,
                run.position.total,
                math.ceil(run.position.total / run.per_epoch),
                len(run.items),
                config.window,
                trainable,
                trained.frozen(),
                str(self._device),
                name,
                dict(buckets.most_common()),
                trainable * BYTES_EACH,
                run.step_seconds * left,
                len(self._job.samples) - len(run.items),
                sum(item.regular for item in run.items),
                card_name(self._device),
                config.text,
                self._ranks.world,
            )
        )
        sizes = {part: size for part, size in asdict(plan).items() if part not in ("free", "kept")}
        self._emit(
            MemoryPlan(
                device=str(self._device),
                total=plan.total,
                free=plan.free,
                **sizes,
                precision=name,
                batch=run.micro_batch,
                checkpointing=self._savings.checkpointing,
                how=memory.described(self._savings, name),
                switches=memory.switches(plan, self._savings, self._possible) | memory.advised(plan, config),
            )
        )
        if plan.fits:
            return
        if self._device.type == "cpu" and plan.total > plan.free + swap_free():
            raise memory.exhausted("planning", plan, config, "the machine")
        self._emit(Warned(f"{plan.total / GB:.1f} GB may not fit into {plan.free / GB:.1f}; it is tried all the same"))

    def _figures(self, plan: Plan) -> dict[str, Any]:
        """For ``result.json``."""
        return {
            "planned": plan.total,
            "peak": self._gauge.most(),
            "plan": asdict(plan),
            "savings": asdict(self._savings),
        }


def _size(item: Item | TextItem) -> str:
    if isinstance(item, Item):
        return f"{item.bucket[0]}x{item.bucket[1]}"
    return f"up to {1 << (item.cost - 1).bit_length()} tokens"
