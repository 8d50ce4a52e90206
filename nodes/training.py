"""What Train LoRA does: from wired things to a finished run, found again on disk when nothing changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..trainer import events, prepare, runfolder
from ..trainer.cache import Cache
from ..trainer.config import TrainConfig, parse
from ..trainer.dataset import Dataset, scan
from ..trainer.errors import RunError, UserError, WorkerError
from ..trainer.events import (
    Checkpoint,
    Event,
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
from ..trainer.sinks import clock, describe
from . import runner, runs
from .host import base_model, memory, places, preview
from .host.encode import HostEncoder
from .host.graph import NodeProgress, check_interrupted
from .host.lora import LoraModel, read
from .payloads import ConfigFields, DatasetRef

log = logging.getLogger("lora-darkroom")
LITTLE_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class Trained:
    """What a run gave.

    Args:
        lora: the LoRA.
        losses: the training loss, a value a logged step.
        samples: the last samples, [N, H, W, 3] in 0..1.
        steps: optimizer steps done.
        run: the run's id.
        notes: what the user should know.
    """

    lora: LoraModel
    losses: list[float]
    samples: torch.Tensor
    steps: int
    run: str
    notes: list[str]


def train(
    dataset: DatasetRef, config: ConfigFields, model: Any, clip: Any, vae: Any, base_file: str, progress: NodeProgress
) -> Trained:
    """Train, go on with, extend, or find again the run that the inputs describe.

    Raises:
        UserError: an input cannot be used.
        RunError: the run failed, or its worker died.
    """
    notes: list[str] = []

    def note(text: str) -> None:
        log.warning(text)
        notes.append(text)

    settings = _settings(dataset, config)
    progress.say("Reading the data set")
    scanned = scan(
        dataset.folder,
        resolution=settings.resolution,
        trigger_word=dataset.trigger_word,
        repeats=dataset.repeats,
    )
    for problem in scanned.problems:
        note(f"{problem.path.name}: {problem.message}")
    progress.say("Looking at the base model")
    base = base_model.resolve(model, base_file, note)
    encoder = HostEncoder(clip, vae, base.family)
    cache = Cache(places.cache())
    job = prepare.plan(settings.but(base_model=base.file.as_posix()), scanned, base, encoder, cache.folder, "host")
    total = runfolder.total_steps(job)
    found = runs.find(places.runs(), job.run_id, total)
    if found.result is None:
        job = replace(job, config=job.config.but(output_dir=found.folder.as_posix()))
        _prepare(job, scanned, encoder, cache, found.folder, progress)
        _free_the_card(note)
        _work(found.folder, total, model, vae, progress, note)
        found = runs.find(places.runs(), job.run_id, total)
    if found.result is None:
        raise WorkerError(f"the run in {found.folder} says that it finished, but its LoRA is gone", "queue again")
    progress.set(total, total)
    story = [e for e in events.history(found.folder / "events.jsonl") if getattr(e, "step", 0) <= found.steps]
    losses = [event.loss for event in story if isinstance(event, Step) and math.isfinite(event.loss)]
    lora = read(found.result, run=job.run_id)
    return Trained(lora, losses, _samples(story, found.folder, encoder), found.steps, job.run_id, notes)


def _settings(dataset: DatasetRef, config: ConfigFields) -> TrainConfig:
    """The whole config: the node's fields, and what the host decides."""
    decided = {
        "train_data_dir": dataset.folder.as_posix(),
        "trigger_word": dataset.trigger_word,
        "repeats": dataset.repeats,
        "cache_dir": places.cache().as_posix(),
        "output_dir": places.runs().as_posix(),
        "device": memory.device(),
    }
    return parse({**config.values, **decided}, source="LoRA Train Config").resolved()


def _prepare(
    job: Job, scanned: Dataset, encoder: HostEncoder, cache: Cache, folder: Path, progress: NodeProgress
) -> None:
    """Fill the cache and write the job; Cancel leaves what is encoded in the cache."""

    def stop() -> bool:
        check_interrupted()
        return False

    def emit(event: Event) -> None:
        if isinstance(event, Phase):
            progress.say(f"{event.name.capitalize()}: {event.done + 1} of {event.total}")
            progress.set(event.done, event.total)

    prepare.fill(job, scanned, encoder, cache, emit=emit, stop=stop)
    runfolder.check_folder(folder, job)
    runs.keep_finished(folder)
    job.save(folder)


def _free_the_card(note: Callable[[str], None]) -> None:
    free = memory.free()
    log.info("%s has %.1f GB free for the training", memory.device(), free / 2**30)
    if memory.keeps_models_on_the_card():
        note("ComfyUI was started with --highvram or --gpu-only: its models stay on the card beside the training")
    elif free < LITTLE_MEMORY:
        note(f"only {free / 2**30:.1f} GB are free on {memory.device()}: the training may not fit")


def _work(folder: Path, total: int, model: Any, vae: Any, progress: NodeProgress, note: Callable[[str], None]) -> None:
    """Run the worker to its end, showing on the node how far it is."""
    progress.say("Starting the worker")
    reached = 0

    def on_event(event: Event) -> None:
        nonlocal reached
        match event:
            case Phase():
                progress.say(event.name.capitalize())
            case RunStarted():
                reached = event.step
                progress.set(reached, total)
                progress.say(f"Training: step {reached} of {total}")
            case Step():
                reached = event.step
                progress.set(reached, total)
                progress.say(
                    f"Step {event.step} of {total}, loss {event.loss:.4f}, {event.seconds:.2f} s a step, "
                    f"{clock(event.eta)} left"
                )
            case Sample():
                progress.set(reached, total, preview.of_file(folder / event.latents, model, vae))
            case Warned():
                note(event.message)
            case Validation() | Checkpoint():
                log.info(describe(event))

    def check() -> None:
        try:
            check_interrupted()
        except BaseException:
            progress.say("Stopping: the step is finished and saved. Cancel once more to end at once.")
            raise

    outcome = runner.work(folder, on_event, check)
    if isinstance(outcome, RunFinished):
        return
    if isinstance(outcome, RunFailed):
        if outcome.details:
            log.error(outcome.details)
        raise (UserError if outcome.user else RunError)(outcome.message, outcome.cure)
    assert isinstance(outcome, RunStopped)
    message = f"the run was stopped at step {outcome.step} ({outcome.reason})"
    raise RunError(message, "queue again: it goes on from there")


def _samples(story: list[Event], folder: Path, encoder: HostEncoder) -> torch.Tensor:
    """The samples of the last step that has some, decoded by the wired VAE."""
    drawn = [event for event in story if isinstance(event, Sample)]
    last = [event for event in drawn if event.step == drawn[-1].step]
    by_index = {event.index: event for event in last}
    latents = [preview.load(folder / by_index[index].latents) for index in sorted(by_index)]
    if not latents:
        raise RunError(f"the run in {folder} drew no samples", "raise epochs, and queue again")
    return torch.cat([encoder.decode(one) for one in latents])
