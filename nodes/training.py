"""What Train LoRA does with images: from wired things to a finished run, found again on disk when nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.nn.functional import interpolate

from ..trainer import advisor, events, export, prepare
from ..trainer.cache import Cache
from ..trainer.config import TrainConfig, parse
from ..trainer.dataset import Dataset, scan
from ..trainer.device import check_several
from ..trainer.errors import HostError, RunError
from ..trainer.events import Event, Phase, Sample
from ..trainer.files import ContentHashes
from ..trainer.job import Job
from ..trainer.peek import Peek
from .host import base_model, memory, places, preview
from .host.encode import HostEncoder
from .host.graph import RunProgress, check_interrupted
from .payloads import ConfigFields
from .sources import Source
from .working import Kind, Notes

T = TypeVar("T")


def train(
    source: Source,
    config: ConfigFields,
    model: Any,
    clip: Any,
    vae: Any,
    base_file: str,
    progress: RunProgress,
    bring: Callable[[Job, Kind, Notes, RunProgress], T],
    devices: int = 1,
) -> T:
    """Train, go on with, extend, or find again the run that the inputs describe.

    Args:
        source: what to train on.
        config: how.
        model: the wired MODEL.
        clip: the wired CLIP.
        vae: the wired VAE.
        base_file: a checkpoint in place of the MODEL's file; may be empty.
        progress: of the node.
        bring: takes the planned job to where it shall come: ``working.to_the_end``, or ``sofar.begin``.
        devices: how many of this machine's share each step.

    Raises:
        UserError: an input cannot be used.
        RunError: the run failed, or its worker died.
    """
    for name, wired in (("MODEL", model), ("CLIP", clip), ("VAE", vae)):
        if wired is None:
            raise HostError(f"Train LoRA: no {name} is wired", "wire MODEL, CLIP and VAE of a checkpoint loader")
    note = Notes()
    settings = settings_of(source.decided(), config, devices)
    progress.phase("Reading the data set")
    dataset = source.dataset(settings)
    for problem in dataset.problems:
        note(f"{problem.path.name}: {problem.message}")
    progress.phase("Looking at the base model")
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
        init=init_of(settings),
    )
    job = replace(job, choices=tuple(choice.told for choice in choices), devices=devices)
    return bring(job, _Images(source, dataset, regularisation, encoder, cache, model, vae, progress), note, progress)


def decide(settings: TrainConfig, dataset: Dataset, base: Peek) -> tuple[TrainConfig, tuple[advisor.Choice, ...]]:
    """Settings without any ``auto``, and what was chosen."""
    if not settings.auto:
        return settings, ()
    # Wired latents have no pictures to compare.
    facts = advisor.facts(dataset.items, settings.trigger_word, alike=dataset.root != Path())
    return advisor.decide(settings, facts, base, memory.room())


def settings_of(source: dict[str, Any], config: ConfigFields, devices: int) -> TrainConfig:
    """The whole config: the node's fields, what follows from the data set, and what the host decides.

    Raises:
        UserError: a field is not valid, or this machine has fewer devices.
    """
    device = memory.device()
    check_several(device, devices)
    decided = {
        **source,
        "cache_dir": places.cache().as_posix(),
        "output_dir": places.runs().as_posix(),
        "device": device if devices == 1 else device.partition(":")[0],
    }
    return parse({**config.values, **decided}, source="LoRA Train Config").resolved().in_processes(devices)


def _regularisation(settings: TrainConfig) -> Dataset | None:
    if settings.reg_data_dir is None:
        return None
    return scan(
        settings.reg_data_dir,
        resolution=settings.resolution,
        fallback=settings.class_prompt,
        index=places.index(),
    )


def init_of(settings: TrainConfig) -> str:
    """The hash of ``init_lora``, once it is known that training can begin from it."""
    if settings.init_lora is None:
        return ""
    export.beginning(settings.init_lora, text=None if settings.text else False)
    return ContentHashes(places.cache() / "hashes.json")(settings.init_lora)


@dataclass(frozen=True)
class _Images:
    """Images, as ``working.Kind``."""

    source: Source
    dataset: Dataset
    regularisation: Dataset | None
    encoder: HostEncoder
    cache: Cache
    model: Any
    vae: Any
    progress: RunProgress

    def fill(self, job: Job, folder: Path) -> None:
        """Encode what the cache lacks; Cancel leaves there what is encoded."""

        def stop() -> bool:
            check_interrupted()
            return False

        def emit(event: Event) -> None:
            if isinstance(event, Phase):
                self.progress.phase(event.name.capitalize(), event.done, event.total)

        self.source.store(job, self.cache, self.encoder)
        reg = self.regularisation
        prepare.fill(job, self.dataset, self.encoder, self.cache, regularisation=reg, emit=emit, stop=stop)

    def shown(self, sample: Sample, folder: Path) -> Any:
        """The sample's picture."""
        return preview.of_file(folder / sample.latents, self.model, self.vae)

    def samples(self, story: list[Event], step: int, folder: Path) -> torch.Tensor:
        """The last samples, decoded by the wired VAE."""
        drawn = [event for event in story if isinstance(event, Sample)]
        if not drawn:
            raise RunError(f"the run in {folder} drew no samples", "raise epochs, and queue again")
        last = list({event.index: event for event in events.shown(drawn, step)}.values())
        pictures = [self.encoder.decode(preview.load(folder / event.latents)) for event in last]
        for event, pixels in zip(last, pictures, strict=True):
            preview.keep(folder / event.latents, preview.of_pixels(pixels), "-vae")
        size = pictures[0].shape[1:3]  # a batch has one size; prompts may ask for others
        return torch.cat([one if one.shape[1:3] == size else _resized(one, size) for one in pictures])


def _resized(pictures: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """[N, H, W, 3] at another size (height, width)."""
    channels_first = pictures.movedim(-1, 1)
    return interpolate(channels_first, size=tuple(size), mode="bilinear", antialias=True).movedim(1, -1)
