"""What a run will be, before it begins: its steps exactly, its time and memory by what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Literal

from . import figures, prepare, runfolder, validation
from .config import TrainConfig
from .dataset import Dataset
from .dataset.sampler import windows, windows_per_epoch
from .figures import Figure
from .job import Base, Job
from .peek import Peek

How = Literal["own", "own_like", "table", "table_like", "other_size", "published", "count"]
"""How figures are known: from an own run on this device, or one like it; the table, in which there is this very case,
one like it, or only another size of model; a published figure of a card; or by counting alone."""
PAIRS, DRIFT_PAIRS, AT_LEAST = 16, 8, 2  # of image and timestep in a validation: as in tasks.diffusion
SAME_SIZE = 0.02


@dataclass(frozen=True)
class Estimate:
    """What a run will be.

    Args:
        images: trained on; or texts.
        held_out: for validation.
        regularisation: trained on as well.
        steps: optimizer steps, exactly.
        presentations: how often they are shown, in all.
        seconds: of the training with its validation and samples; None: not known for this kind of device.
        encoding: seconds of encoding pictures and captions before it, once; 0 where that is quick, or not known.
        memory: peak bytes.
        how: where the figures are from.
        run: the id of the own run that they are from; may be empty.
    """

    images: int
    held_out: int
    regularisation: int
    steps: int
    presentations: int
    seconds: float | None
    encoding: float
    memory: float
    how: How
    run: str = ""


class _AnyEncoders:
    """Which encoders there are does not change how long a run is."""

    latents_fingerprint = conditioning_fingerprint = ""


def plan(config: TrainConfig, dataset: Dataset, regularisation: Dataset | None, family: str) -> Job:
    """The job that a run with these would have, but for its base's and encoders' content.

    Raises:
        UserError: as ``prepare.plan``.
    """
    base = Base(config.base_model, family, "")
    return prepare.plan(config, dataset, base, _AnyEncoders(), Path(), regularisation=regularisation)


def estimate(job: Job, base: Peek, device: str, card: str, runs: Path) -> Estimate:
    """What a job will take.

    Args:
        job: from ``plan``.
        base: family and size of the base model.
        device: what it will be trained on, such as ``cpu`` or ``cuda:0``.
        card: what that is called; see ``device.card_name``.
        runs: the folder of the user's own runs.
    """
    kind, config, items = device.partition(":")[0], job.config, job.train_items
    steps, size = runfolder.total_steps(job), _bytes(config, kind)
    pixels = figures.largest(items)
    figure = _nearest(figures.own(runs, kind, card), job, base, size) or _tabled(kind, base)
    work = figures.work(config, items, base.family, base.parameters)
    memory = figures.memory(config, pixels, base.family, base.parameters, size or (figure.bytes if figure else 2))
    seconds: float | None = None
    how: How = "count"
    if figure is not None:
        if figure.memory:
            memory = max(base.parameters * figure.bytes, figure.memory + memory - figure.reckoned)
        rate = figure.seconds / figure.work  # seconds a TFLOP
        seconds = rate * (steps * work + _beside(job, base, steps))
        how = _how(figure, job, base)
    elif kind == "cuda":
        step = max(work / figures.CARD, figures.LAUNCHES * config.gradient_accumulation_steps)
        seconds, how = steps * step + _beside(job, base, steps) / figures.CARD, "published"
    return Estimate(
        images=sum(not item.regular for item in items),
        held_out=len(job.items) - len(items),
        regularisation=sum(item.regular for item in items),
        steps=steps,
        presentations=_presentations(job, steps),
        seconds=seconds,
        encoding=_encoding(job, base) if kind == "cpu" else 0.0,
        memory=memory,
        how=how,
        run=figure.run if figure is not None else "",
    )


def estimate_texts(job: Job, base: Peek, device: str, card: str, runs: Path) -> Estimate:
    """What a job of texts will take: its time is known where a run of the same model has finished on this device.

    Args:
        job: as planned.
        base: the language model.
        device: what it will be trained on, such as ``cpu`` or ``cuda:0``.
        card: what that is called; see ``device.card_name``.
        runs: the folder of the user's own runs.
    """
    kind, config, items = device.partition(":")[0], job.config, job.train_items
    steps, size = runfolder.total_steps(job), _bytes(config, kind)
    longest = max(len(item.tokens) for item in items)
    memory = figures.text_memory(config, longest, base, size or 2)
    known = [one for one in figures.own(runs, kind, card) if _same_model(one, base) and size in (0, one.bytes)]
    alike = [
        one for one in known if (one.batch, one.checkpointing) == (config.batch_size, config.gradient_checkpointing)
    ]
    figure, seconds = next(iter(alike or known), None), None
    if figure is not None:
        seconds = figure.seconds / figure.work * steps * figures.text_work(config, items, base.parameters)
        memory = figure.memory if alike else memory
    return Estimate(
        images=len(items),
        held_out=len(job.texts) - len(items),
        regularisation=0,
        steps=steps,
        presentations=_presentations(job, steps),
        seconds=seconds,
        encoding=0.0,
        memory=memory,
        how="own" if alike else "own_like" if figure else "count",
        run=figure.run if figure else "",
    )


def _same_model(figure: Figure, base: Peek) -> bool:
    return figure.family == base.family and abs(figure.parameters / base.parameters - 1) < SAME_SIZE


def _bytes(config: TrainConfig, kind: str) -> int:
    """Bytes of a frozen weight in the number format that will be trained in; 0: a trial will decide."""
    wanted = config.mixed_precision
    if wanted == "no" or (kind == "cpu" and wanted == "fp16"):
        return 4
    return 0 if wanted == "auto" and kind == "cpu" else 2


def _nearest(own: list[Figure], job: Job, base: Peek, size: int) -> Figure | None:
    """The own run that is most like a job: of the same model, in the same number format."""
    pixels, config = figures.largest(job.train_items), job.config

    def distance(figure: Figure) -> float:
        apart = abs(log(figure.pixels / pixels)) + abs(log(figure.batch / config.batch_size))
        return apart + (figure.checkpointing != config.gradient_checkpointing)

    alike = [figure for figure in own if _same_model(figure, base) and (not size or figure.bytes == size)]
    return min(alike, key=distance, default=None)  # the newest of those that are equally near


def _tabled(kind: str, base: Peek) -> Figure | None:
    """The row of the table for a model: the one of its family whose size is nearest."""
    rows = [row for row in figures.TABLE if row.family == base.family and row.device == kind]
    return min(rows, key=lambda row: abs(log(row.parameters / base.parameters)), default=None)


def _how(figure: Figure, job: Job, base: Peek) -> How:
    config = job.config
    asked = (figures.largest(job.train_items), config.batch_size, config.gradient_checkpointing)
    alike = (figure.pixels, figure.batch, figure.checkpointing) == asked
    if figure.run:
        return "own" if alike else "own_like"
    if abs(figure.parameters / base.parameters - 1) > SAME_SIZE:
        return "other_size"
    return "table" if alike else "table_like"


def _presentations(job: Job, steps: int) -> int:
    """How often images are shown in so many steps."""
    config, items = job.config, job.train_items
    epochs, rest = divmod(steps, windows_per_epoch(items, config.window))
    begun = windows(items, seed=config.seed, epoch=epochs, size=config.window)[:rest] if rest else []
    return epochs * sum(item.repeats for item in items) + sum(map(len, begun))


def _beside(job: Job, base: Peek, steps: int) -> float:
    """TFLOP of what is done beside the steps: validation, and samples with their guidance."""
    config, items = job.config, job.train_items
    width, height = items[0].bucket
    total = 0.0
    if config.validation_steps:
        held_out = len(job.items) - len(items)
        pairs = PAIRS + DRIFT_PAIRS + (max(PAIRS, AT_LEAST * held_out) if held_out else 0)
        one = pairs * figures.forward(base.family, base.parameters, width * height)
        training = steps * figures.work(config, items, base.family, base.parameters)
        most = validation.SHARE * training / one
        total += one * max(2, min(1 + steps / config.validation_steps, most))
    if config.sample_every:
        rounds = -(-steps // config.sample_every)
        for prompt in job.prompts:
            pixels = (prompt.width or width) * (prompt.height or height)
            twice = 2 if (prompt.guidance or config.sample_guidance) > 1 else 1
            forward = figures.forward(base.family, base.parameters, pixels)
            total += rounds * twice * (prompt.steps or config.sample_inference_steps) * forward
    return total


def _encoding(job: Job, base: Peek) -> float:
    """Seconds of encoding on a CPU; of the full-size models, whose encoders were measured."""
    if base.parameters < figures.BASES[base.family] / 2:
        return 0.0
    pixels = sum(item.bucket[0] * item.bucket[1] * (2 if item.flipped else 1) for item in job.items)
    return pixels * figures.ENCODING["image"] + len(job.captions()) * figures.ENCODING["caption"]
