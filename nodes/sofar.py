"""What Train LoRA hands on of a run that is trained in the background: at once, whatever there is of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..trainer import advisor, dependencies, events, job, runfolder
from ..trainer.events import RunStarted, Sample, Step, Warned
from ..trainer.job import Job
from ..trainer.lock import locked
from ..trainer.sinks import clock, describe
from . import background, runs
from .host import places
from .host.graph import RunProgress
from .host.lora import LoraModel, read
from .working import WAIT, Kind, Notes, Trained, prepare, to_the_end


@dataclass(frozen=True)
class SoFar:
    """What there is of a run.

    Args:
        lora: of the checkpoint that is best by now, or the last; None before the first one.
        waits: where there is none, when there will be; else empty.
        losses: the training loss, a value a logged step.
        samples: the last ones up to that checkpoint, [N, H, W, 3] in 0..1; None before the first.
        steps: optimizer steps that the LoRA was trained for.
        run: the run's id.
        text: how it stands.
        notes: what the user should know.
        advice: what was chosen, and what to mind.
    """

    lora: LoraModel | None
    waits: str
    losses: list[float]
    samples: torch.Tensor | None
    steps: int
    run: str
    text: str
    notes: list[str]
    advice: list[str]


def begin(job: Job, kind: Kind, note: Notes, progress: RunProgress) -> Trained | SoFar:
    """Prepare a run and put it into the queue, unless it is there; what there is of it. A finished one is as ever.

    Raises:
        RunFolderError: another process trains this run now.
    """
    total = runfolder.total_steps(job)
    found = runs.find(places.runs(), job.run_id, total, job.config.early_stopping_patience)
    folder, node = found.folder, progress.panel.at.node
    run = folder.name
    if found.result is not None:
        done = to_the_end(job, kind, note, progress)
        background.handed_on(node, run)
        return done
    foreman, drawn = background.foreman(), background.drawn_by(progress.mark, progress.prompt)
    if drawn not in (None, run):
        background.handed_on(node, run)  # nothing, which is not to be handed on again when it is queued
        text = "The settings were changed since the training began: nothing is drawn. Queue the graph for another run"
        return SoFar(None, "", [], None, 0, job.run_id, text, note.lines, [])
    progress.panel.show(folder)
    if foreman.told()["running"] == run:
        _compare(folder, total, note)
    elif drawn is None:
        dependencies.check()
        job = replace(job, config=job.config.but(output_dir=folder.as_posix()))
        with locked(folder, "host.lock", WAIT):
            prepare(job, folder, kind)
        foreman.add(run)
    done = _so_far(job, folder, total, kind, note.lines)
    background.handed_on(node, run)
    return done


def _compare(folder: Path, total: int, note: Notes) -> None:
    now = runfolder.total_steps(job.load(folder))
    if now != total:
        note(f"it is being trained to {now} steps now; queue again when it has finished: it then goes on to {total}")


def _so_far(job: Job, folder: Path, total: int, kind: Kind, notes: list[str]) -> SoFar:
    story = list(events.history(folder / "events.jsonl"))
    losses = [event.loss for event in story if isinstance(event, Step) and math.isfinite(event.loss)]
    notes += dict.fromkeys(event.message for event in story if isinstance(event, Warned))
    found = runs.as_it_is(folder, total)
    lora, steps, waits = None, 0, ""
    if found.result is not None:
        steps, file, why = found.best
        lora = read(file, run=job.run_id)
        if why:
            notes.insert(0, f"this is step {steps} of {found.steps}, the best one so far: {why}")
    last, each, left = _pace(story, total)
    text, works = _standing(folder.name, last, total, left)
    if lora is None:
        first = runfolder.next_checkpoint(job.config, last, total)
        when = f", in about {clock((first - last) * each)}" if works and each else ""
        waits = f"Nothing of it is saved yet: its first checkpoint comes at step {first} of {total}{when}"
    drawn = any(isinstance(event, Sample) for event in story)
    samples = kind.samples(story, steps, folder) if drawn else None
    if lora is not None:
        text = f"{text}; this is step {steps}"
    return SoFar(lora, waits, losses, samples, steps, job.run_id, text, notes, list(map(describe, advisor.before(job))))


def _pace(story: list[events.Event], total: int) -> tuple[int, float, float]:
    """The last step, seconds a step, and seconds to the end; 0 where that is not known."""
    for event in reversed(story):
        if isinstance(event, Step):
            return event.step, event.seconds, event.eta
        if isinstance(event, RunStarted):
            return event.step, event.seconds / max(1, total - event.step), event.seconds
    return 0, 0.0, 0.0


def _standing(run: str, last: int, total: int, left: float) -> tuple[str, bool]:
    """How a run stands, in words; and whether it is at work."""
    told = background.foreman().told()
    if told["running"] == run:
        rest = f", about {clock(left)} left" if left else ""
        return f"Trained in the background: step {last} of {total}{rest}", True
    if run in told["waiting"]:
        ahead = told["waiting"].index(run) + (told["running"] is not None)
        place = "next" if ahead == 0 else f"behind {ahead} other{'s' * (ahead > 1)}"
        return f"In the queue, {place}: step {last} of {total}", False
    failed = next((one["message"] for one in told["failed"] if one["run"] == run), "")
    why = f"failed ({failed})" if failed else "stopped"
    return f"The run has {why} at step {last} of {total}; queue again: it goes on", False
