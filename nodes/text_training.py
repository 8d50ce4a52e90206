"""What Train LoRA does with texts: a CLIP that holds a language model, to a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..trainer import events, sheet, text_planning
from ..trainer.config import TEXT
from ..trainer.errors import HostError
from ..trainer.events import Event, Sample
from ..trainer.files import ContentHashes
from ..trainer.job import Job
from .host import clip_language, memory, places
from .host.graph import RunProgress
from .payloads import ConfigFields, DatasetRef
from .training import init_of, settings_of
from .working import Kind, Notes

T = TypeVar("T")


def train_text(
    ref: DatasetRef,
    config: ConfigFields,
    clip: Any,
    progress: RunProgress,
    bring: Callable[[Job, Kind, Notes, RunProgress], T],
    devices: int = 1,
) -> T:
    """Train, go on with, extend, or find again the run of a language model.

    ``bring`` and ``devices`` are as in ``training.train``.

    Raises:
        UserError: an input cannot be used.
        RunError: the run failed, or its worker died.
    """
    if clip is None:
        raise HostError(
            "Train LoRA: the data set is text, and no CLIP with a language model is wired",
            "wire the CLIP of Load Language Model, or of Load CLIP with a Qwen, Gemma or Mistral text encoder",
        )
    note = Notes()
    decided = {"task_type": TEXT, "train_data_dir": ref.folder.as_posix(), "repeats": ref.repeats}
    settings = settings_of(decided, config, devices)
    progress.phase("Reading the texts")
    dataset = ref.texts()
    for problem in dataset.problems:
        note(f"{problem.path.name}: {problem.message}")
    progress.phase("Looking at the language model")
    found = clip_language.held(clip)
    if not found.writes:
        note("ComfyUI's Generate Text cannot write with this CLIP; PEFT's folder in the run is for other programs")
    settings = settings.but(
        base_model=found.path.resolve().as_posix(),
        tokenizer=found.tokenizer.as_posix() if found.tokenizer else None,
        # What Generate Text will write around a prompt.
        chat_template=settings.chat_template or found.template,
    )
    hashes = ContentHashes(places.cache() / "hashes.json")
    job = text_planning.job(settings, dataset, hashes, memory.room, init_of(settings), "host")
    return bring(replace(job, devices=devices), _Texts(), note, progress)


class _Texts:
    """Texts, as ``working.Kind``."""

    def fill(self, job: Job, folder: Path) -> None:
        """Nothing: the job holds the tokens."""

    def shown(self, sample: Sample, folder: Path) -> Any:
        """The question and the answer."""
        return sheet.page([(sample.prompt, sample.answer)])

    def samples(self, story: list[Event], step: int, folder: Path) -> torch.Tensor:
        """A page of the last questions and answers, [1, H, W, 3] in 0..1."""
        answered = [event for event in story if isinstance(event, Sample)]
        page = sheet.page([(one.prompt, one.answer) for one in events.shown(answered, step)] if answered else [])
        return sheet.to_pixels(page).movedim(0, -1)[None]
