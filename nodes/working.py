"""A planned job to its end: the worker, what the node shows of it, and the LoRA from disk."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ..trainer import advisor, control, dependencies, events, runfolder
from ..trainer.errors import RunError, WorkerError
from ..trainer.events import (
    Advised,
    Checkpoint,
    Event,
    MemoryPlan,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    Validation,
    Warned,
)
from ..trainer.job import Job
from ..trainer.lock import locked
from ..trainer.sinks import clock, describe
from . import background, runner, runs
from .host import memory, places, preview
from .host.graph import RunProgress, check_interrupted, tell_page
from .host.lora import LoraModel, read
from .live import Live

log = logging.getLogger("lora-darkroom")
WAIT = "wait for it, or stop it where it was queued; then queue again: what it has done is used"
Say = Callable[[str], None]
_kept: Counter[str] = Counter()  # by nodes


@dataclass(frozen=True)
class Trained:
    """What a run gave.

    Args:
        lora: the LoRA.
        losses: the training loss, a value a logged step.
        samples: the last samples, [N, H, W, 3] in 0..1.
        steps: optimizer steps that the LoRA was trained for.
        run: the run's id.
        notes: what the user should know.
        advice: what was chosen, what to mind, and what to change next.
        anew: whether anything was trained now; False if the run was finished already.
        folder: the run's.
        outcome: its ``result.json``.
    """

    lora: LoraModel
    losses: list[float]
    samples: torch.Tensor
    steps: int
    run: str
    notes: list[str]
    advice: list[str]
    anew: bool
    folder: Path
    outcome: dict[str, Any]


class Kind(Protocol):
    """What differs between images and texts, once the job is planned."""

    def fill(self, job: Job, folder: Path) -> None:
        """Everything that the worker will read of the job, but for the job itself."""
        ...

    def shown(self, sample: Sample, folder: Path) -> Any:
        """A picture of a sample for the node while it trains; None: none."""
        ...

    def samples(self, story: list[Event], step: int, folder: Path) -> torch.Tensor:
        """The samples of the last step up to the LoRA's that has some, [N, H, W, 3] in 0..1."""
        ...


class Notes:
    """What the user should know, told once in the log and kept for the node."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        """Tell it."""
        log.warning(text)
        self.lines.append(text)


def to_the_end(job: Job, kind: Kind, note: Notes, progress: RunProgress) -> Trained:
    """Train, go on with, extend, or find again the run of a job.

    Raises:
        RunError: the run failed, or its worker died.
        RunFolderError: another process trains this run now.
    """
    notes, advice = note.lines, list(map(describe, advisor.before(job)))
    for line in advice:
        log.info(line)
    total = runfolder.total_steps(job)
    patience = job.config.early_stopping_patience
    found = runs.find(places.runs(), job.run_id, total, patience)
    kept = False
    if trained := found.result is None:
        job = replace(job, config=job.config.but(output_dir=found.folder.as_posix()))
        dependencies.check()
        # From here on this ComfyUI alone: between the job's writing and the worker's lock another one on the same user
        # folder could write a job of another length, which this worker would then train.
        background.foreman().take(found.folder.name, check_interrupted)
        with locked(found.folder, "host.lock", WAIT):
            progress.panel.show(found.folder)
            prepare(job, found.folder, kind)
            memory.make_room(note)
            kept = _work(found.folder, total, kind, progress, note)
        found = runs.find(places.runs(), job.run_id, total, patience)
    else:
        progress.panel.show(found.folder)
    if found.result is None and kept:
        found = runs.as_it_is(found.folder, total)
        count_kept(progress.panel.at.node)
        notes.insert(0, f"stopped after {found.steps} of {total} steps, and kept; queue again: it goes on from there")
    if found.result is None:
        raise WorkerError(f"the run in {found.folder} says that it finished, but its LoRA is gone", "queue again")
    progress.set(total, total)
    story = [e for e in events.history(found.folder / "events.jsonl") if getattr(e, "step", 0) <= found.steps]
    losses = [event.loss for event in story if isinstance(event, Step) and math.isfinite(event.loss)]
    if stopped := found.outcome.get("stopped"):
        notes.insert(0, f"stopped after {found.steps} of {total} steps: {stopped['reason']}")
    step, file, why = found.best
    if why:
        notes.insert(0, f"this is step {step} of {found.steps}, the best one: {why}")
    diagnosed = [event for event in story if isinstance(event, Advised) and event.kind == "diagnosis"]
    advice += map(describe, diagnosed[-1:])
    samples = kind.samples(story, step, found.folder)
    lora, outcome = read(file, run=job.run_id), found.outcome
    return Trained(lora, losses, samples, step, job.run_id, notes, advice, trained, found.folder, outcome)


def prepare(job: Job, folder: Path, kind: Kind) -> None:
    """Write everything that a worker will read. Whoever calls it holds the folder's ``host.lock``.

    Raises:
        RunFolderError: another process trains this run now.
    """
    kind.fill(job, folder)
    with locked(folder, cure=WAIT):  # a worker whose ComfyUI has ended may still be saving
        runfolder.check_folder(folder, job)
        runs.keep_finished(folder)
        job.save(folder)


def count_kept(node: str) -> None:
    """A node has handed on less than it was to: queued again, it goes on."""
    _kept[node] += 1


def times_kept(node: str | None) -> int:
    """How often a node has handed on a run that was stopped.

    It is the node's fingerprint: else ComfyUI's cache would hand on the stopped run's LoRA again, where queueing again
    shall go on with the run.
    """
    return _kept[node or ""]


def _work(folder: Path, total: int, kind: Kind, progress: RunProgress, note: Say) -> bool:
    """Run the worker to its end, showing on the node how far it is. Returns whether it was stopped to be kept."""
    progress.phase("Starting the worker")
    live = Live(folder, tell_page)
    reached = 0
    plan: list[str] = []  # the last one: with what was given up

    def on_event(event: Event) -> None:
        nonlocal reached
        match event:
            case Phase():
                progress.say(event.name.capitalize())
            case RunStarted():
                reached = event.step
                progress.set(reached, total)
                left = f", about {clock(event.seconds)} left" if event.seconds else ""
                progress.say(f"Training: step {reached} of {total}{left}")
            case MemoryPlan():
                plan[:] = [line.strip() for line in describe(event).splitlines()]
            case Step():
                reached = event.step
                progress.set(reached, total)
                progress.say(
                    f"Step {event.step} of {total}, loss {event.loss:.4f}, {event.seconds:.2f} s a step, "
                    f"{clock(event.eta)} left"
                )
            case Sample():
                picture = kind.shown(event, folder)
                progress.set(reached, total, picture)
                if event.latents:
                    preview.keep(folder / event.latents, picture)
            case Warned():
                note(event.message)
            case Validation() | Checkpoint():
                log.info(describe(event))

    def check() -> None:
        live()
        try:
            check_interrupted()
        except BaseException:
            progress.say("Stopping: the step is finished and saved. Cancel once more to end at once.")
            raise

    try:
        outcome = runner.work(folder, on_event, check)
    finally:
        live.close()
    for line in plan[:2]:
        note(line)
    if isinstance(outcome, RunFinished):
        return False
    if isinstance(outcome, RunFailed):
        raise runner.failure(outcome)
    assert isinstance(outcome, RunStopped)
    if outcome.step and control.read(folder / "control.json").keep:
        return True
    message = f"the run was stopped at step {outcome.step} ({outcome.reason})"
    raise RunError(message, "queue again: it goes on from there")
