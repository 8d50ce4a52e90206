"""What Train LoRA does: from wired things to a finished run, found again on disk when nothing changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from ..trainer import advisor, dependencies, events, export, prepare, runfolder
from ..trainer.cache import Cache
from ..trainer.config import TrainConfig, parse
from ..trainer.dataset import Dataset, scan
from ..trainer.errors import HostError, RunError, WorkerError
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
from ..trainer.files import ContentHashes
from ..trainer.job import Job
from ..trainer.lock import locked
from ..trainer.peek import Peek
from ..trainer.sinks import clock, describe
from . import runner, runs
from .host import base_model, memory, places, preview
from .host.encode import HostEncoder
from .host.graph import NodeProgress, check_interrupted
from .host.lora import LoraModel, read
from .payloads import ConfigFields
from .sources import Source

log = logging.getLogger("lora-darkroom")
WAIT = "wait for it, or stop it where it was queued; then queue again: what it has done is used"


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


def train(
    source: Source, config: ConfigFields, model: Any, clip: Any, vae: Any, base_file: str, progress: NodeProgress
) -> Trained:
    """Train, go on with, extend, or find again the run that the inputs describe.

    Raises:
        UserError: an input cannot be used.
        RunError: the run failed, or its worker died.
    """
    for name, wired in (("MODEL", model), ("CLIP", clip), ("VAE", vae)):
        if wired is None:
            raise HostError(f"Train LoRA: no {name} is wired", "wire MODEL, CLIP and VAE of a checkpoint loader")
    notes: list[str] = []

    def note(text: str) -> None:
        log.warning(text)
        notes.append(text)

    settings = _settings(source, config)
    progress.say("Reading the data set")
    dataset = source.dataset(settings)
    for problem in dataset.problems:
        note(f"{problem.path.name}: {problem.message}")
    progress.say("Looking at the base model")
    base = base_model.resolve(model, base_file, note)
    settings, choices = decide(settings, dataset, advisor.model(base.file, base.family))
    if choices:
        dataset = source.dataset(settings)
    regularisation = _regularisation(settings)
    for problem in regularisation.problems if regularisation else ():
        note(f"{problem.path.name}: {problem.message}")
    encoder = HostEncoder(clip, vae, base.family, base_model.text_width(model))
    cache = Cache(places.cache())
    job = prepare.plan(
        settings.but(base_model=base.file.as_posix()),
        dataset,
        base,
        encoder,
        cache.folder,
        "host",
        regularisation=regularisation,
        init=_init(settings),
    )
    job = replace(job, choices=tuple(choice.told for choice in choices))
    advice = list(map(describe, advisor.before(job)))
    for line in advice:
        log.info(line)
    total = runfolder.total_steps(job)
    patience = job.config.early_stopping_patience
    found = runs.find(places.runs(), job.run_id, total, patience)
    if trained := found.result is None:
        job = replace(job, config=job.config.but(output_dir=found.folder.as_posix()))
        dependencies.check()
        # From here on this ComfyUI alone: between the job's writing and the worker's lock another one on the same user
        # folder could write a job of another length, which this worker would then train.
        with locked(found.folder, "host.lock", WAIT):
            source.store(job, cache, encoder)
            _prepare(job, dataset, regularisation, encoder, cache, found.folder, progress)
            memory.make_room(note)
            _work(found.folder, total, model, vae, progress, note)
        found = runs.find(places.runs(), job.run_id, total, patience)
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
    samples = _samples(story, step, found.folder, encoder)
    lora, outcome = read(file, run=job.run_id), found.outcome
    return Trained(lora, losses, samples, step, job.run_id, notes, advice, trained, found.folder, outcome)


def decide(settings: TrainConfig, dataset: Dataset, base: Peek) -> tuple[TrainConfig, tuple[advisor.Choice, ...]]:
    """Settings without any ``auto``, and what was chosen."""
    if not settings.auto:
        return settings, ()
    # Wired latents have no pictures to compare.
    facts = advisor.facts(dataset.items, settings.trigger_word, alike=dataset.root != Path())
    return advisor.decide(settings, facts, base, memory.room())


def _settings(source: Source, config: ConfigFields) -> TrainConfig:
    """The whole config: the node's fields, and what the host decides."""
    decided = {
        **source.decided(),
        "cache_dir": places.cache().as_posix(),
        "output_dir": places.runs().as_posix(),
        "device": memory.device(),
    }
    return parse({**config.values, **decided}, source="LoRA Train Config").resolved()


def _regularisation(settings: TrainConfig) -> Dataset | None:
    if settings.reg_data_dir is None:
        return None
    return scan(settings.reg_data_dir, resolution=settings.resolution, fallback=settings.class_prompt)


def _init(settings: TrainConfig) -> str:
    """The hash of ``init_lora``, once it is known that training can begin from it."""
    if settings.init_lora is None:
        return ""
    export.beginning(settings.init_lora, text=False)
    return ContentHashes(places.cache() / "hashes.json")(settings.init_lora)


def _prepare(
    job: Job,
    dataset: Dataset,
    regularisation: Dataset | None,
    encoder: HostEncoder,
    cache: Cache,
    folder: Path,
    progress: NodeProgress,
) -> None:
    """Fill the cache and write the job; Cancel leaves what is encoded in the cache.

    Raises:
        RunFolderError: another process trains this run now.
    """

    def stop() -> bool:
        check_interrupted()
        return False

    def emit(event: Event) -> None:
        if isinstance(event, Phase):
            progress.say(f"{event.name.capitalize()}: {event.done + 1} of {event.total}")
            progress.set(event.done, event.total)

    prepare.fill(job, dataset, encoder, cache, regularisation=regularisation, emit=emit, stop=stop)
    with locked(folder, cure=WAIT):  # a worker whose ComfyUI has ended may still be saving
        runfolder.check_folder(folder, job)
        runs.keep_finished(folder)
        job.save(folder)


def _work(folder: Path, total: int, model: Any, vae: Any, progress: NodeProgress, note: Callable[[str], None]) -> None:
    """Run the worker to its end, showing on the node how far it is."""
    progress.say("Starting the worker")
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
    for line in plan[:2]:
        note(line)
    if isinstance(outcome, RunFinished):
        return
    if isinstance(outcome, RunFailed):
        raise runner.failure(outcome)
    assert isinstance(outcome, RunStopped)
    message = f"the run was stopped at step {outcome.step} ({outcome.reason})"
    raise RunError(message, "queue again: it goes on from there")


def _samples(story: list[Event], step: int, folder: Path, encoder: HostEncoder) -> torch.Tensor:
    """The samples of the last step up to the LoRA's that has some, decoded by the wired VAE."""
    drawn = [event for event in story if isinstance(event, Sample)]
    if not drawn:
        raise RunError(f"the run in {folder} drew no samples", "raise epochs, and queue again")
    by_index = {event.index: event for event in events.shown(drawn, step)}
    pictures = [encoder.decode(preview.load(folder / event.latents)) for event in by_index.values()]
    size = pictures[0].shape[1:3]  # a batch has one size; prompts may ask for others
    return torch.cat([one if one.shape[1:3] == size else _resized(one, size) for one in pictures])


def _resized(pictures: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """[N, H, W, 3] at another size (height, width)."""
    channels_first = pictures.movedim(-1, 1)
    return interpolate(channels_first, size=tuple(size), mode="bilinear", antialias=True).movedim(1, -1)
