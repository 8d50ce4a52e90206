"""From a config to a job, on the command line: dataset, base model and encoders are the trainer's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import advisor, checkpoint, export, families, own, text, text_planning
from . import job as jobs
from .cache import Cache, default_folder
from .config import TrainConfig
from .dataset import Dataset, scan
from .device import resolve
from .events import Event, Sink, Warned
from .files import ContentHashes
from .gauge import budget, hold_to
from .job import Job
from .launch import launched
from .prepare import fill, plan


@dataclass(frozen=True)
class Planned:
    """A job, and what it takes to begin with it.

    Args:
        job: what is trained.
        fill: encodes what the cache lacks.
        decode: for samples; None where these are no pictures.
    """

    job: Job
    fill: Callable[[Job, Callable[[Event], None]], None] = lambda job, emit: None
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None


def images(
    config: TrainConfig, emit: Sink, note: Sink, stop: Callable[[], bool], share: slice | None = None
) -> Planned:
    """The job of a config for images.

    Args:
        config: with absolute paths (``resolved``).
        emit: takes events that are only of the moment.
        note: takes events that belong into the run.
        stop: polled between encodings.
        share: what of the cache it fills; None: this process' share of what those of its machine fill together.

    Raises:
        UserError: config, dataset or base model cannot be used.
    """
    share = launched().share if share is None else share
    cache = Cache(config.cache_dir or default_folder())
    dataset = _scan(config, cache)
    for problem in dataset.problems:
        note(Warned(f"{problem.path}: {problem.message}"))
    device = resolve(config)
    choices: tuple[tuple[str, str, str], ...] = ()
    if config.auto:
        before = config.resolution
        model = advisor.model(config.base_model, families.detect(config.base_model).name)
        room = advisor.Room(str(device), budget(device, config.vram_limit))
        config, chosen = advisor.decide(config, advisor.facts(dataset.items, config.trigger_word), model, room)
        choices = tuple(choice.told for choice in chosen)
        dataset = dataset if config.resolution == before else _scan(config, cache)
    regularisation = None
    if config.reg_data_dir is not None:
        regularisation = scan(
            config.reg_data_dir, resolution=config.resolution, fallback=config.class_prompt, index=cache.index
        )
        for problem in regularisation.problems:
            note(Warned(f"{problem.path}: {problem.message}"))
    hold_to(device, config.vram_limit)
    hashes = ContentHashes(cache.folder / "hashes.json")
    base = own.base(config, hashes)
    encoder = own.OwnEncoder(
        families.get(base.family),
        base,
        config.clip_skip,
        device,
        lambda message: emit(Warned(message)),
        config.vram_limit,
    )
    init = _init(config, config.output_dir, hashes)
    job = plan(config, dataset, base, encoder, cache.folder, regularisation=regularisation, init=init)

    def encode(job: Job, emit: Callable[[Event], None]) -> None:
        fill(job, dataset, encoder, cache, regularisation=regularisation, emit=emit, stop=stop, share=share)
        encoder.encoded()

    return Planned(replace(job, choices=choices), encode, encoder.decode)


def texts(config: TrainConfig, emit: Sink, note: Sink, stop: Callable[[], bool]) -> Planned:
    """The job of a config for texts; as ``images``."""
    dataset = text.scan(config.train_data_dir, metadata_path=config.metadata_path, repeats=config.repeats)
    for problem in dataset.problems:
        note(Warned(f"{problem.path}: {problem.message}"))
    hashes = ContentHashes((config.cache_dir or default_folder()) / "hashes.json")

    def room() -> advisor.Room:
        device = resolve(config)
        return advisor.Room(str(device), budget(device, config.vram_limit))

    return Planned(text_planning.job(config, dataset, hashes, room, _init(config, config.output_dir, hashes)))


def _scan(config: TrainConfig, cache: Cache) -> Dataset:
    return scan(
        config.train_data_dir,
        metadata_path=config.metadata_path,
        resolution=config.resolution,
        trigger_word=config.trigger_word,
        repeats=config.repeats,
        captions=config.caption_source,
        mask=config.mask,
        index=cache.index,
        exclude=config.exclude,
    )


def _init(config: TrainConfig, folder: Path, hashes: ContentHashes) -> str:
    """The hash of ``init_lora``, which is read once to see that it can be; a run that has begun needs it no more."""
    if config.init_lora is None:
        return ""
    if not config.init_lora.is_file() and checkpoint.latest(folder) and jobs.exists(folder):
        return jobs.load(folder).init
    export.beginning(config.init_lora, text=None if config.text else config.train_text_encoder)
    return hashes(config.init_lora)
