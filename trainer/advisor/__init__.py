"""Advice: what ``auto`` becomes, what to mind before a training, and what to change after it.

``facts`` of the pictures and ``decide`` turn every ``auto`` of a config into a value with its reason; ``warn`` says
what the guide warns of; ``diagnose`` says what was wrong with a run, and the one thing to change next. All is reckoned
from what is known (settings, pictures, the base file's header, a run's events); nothing is measured, and nothing is
changed that a user has set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from .. import events, languages, runfolder
from ..config import TrainConfig
from ..dataset.sampler import windows_per_epoch
from ..errors import BaseModelError
from ..events import Advised, Chosen, Event, RunStopped
from ..figures import BASES
from ..job import Job
from ..peek import Peek, peek
from .cautions import Advice, Length, warn
from .choices import Choice, Room, decide
from .diagnosis import Case, Diagnosis, diagnose
from .facts import Facts, facts, facts_of_texts

__all__ = [
    "Advice",
    "Case",
    "Choice",
    "Diagnosis",
    "Facts",
    "Length",
    "Room",
    "after",
    "before",
    "case",
    "decide",
    "decide_texts",
    "diagnose",
    "facts",
    "facts_of_texts",
    "language_model",
    "length",
    "model",
    "warn",
]


def model(file: Path, family: str) -> Peek:
    """What a base model of images is. One whose file does not tell its size is taken for one of full size."""
    try:
        return peek(file)
    except BaseModelError:
        return Peek(family, BASES[family])


def language_model(file: Path, family: str) -> Peek:
    """What a language model is; one that cannot be read any more is known by its name alone."""
    try:
        kind = languages.detect(file)
    except BaseModelError:
        return Peek(family, 0)
    return Peek(kind.name, kind.numbers, 0, kind.layers * kind.hidden, kind.vocabulary)


def decide_texts(job: Job, room: Room) -> tuple[TrainConfig, tuple[Choice, ...]]:
    """As ``decide``, for the texts of a job that was planned with every ``auto`` as its default."""
    base = language_model(job.base.file, job.base.family)
    return decide(job.config, facts_of_texts(job.texts), base, room)


def length(job: Job) -> Length:
    """How long a job is."""
    steps, own = runfolder.total_steps(job), [item for item in job.train_items if not item.regular]
    epochs = steps / windows_per_epoch(job.train_items, job.config.window)
    return Length(steps, epochs * sum(item.repeats for item in own))


def before(job: Job) -> list[Event]:
    """What is to be said of a job before it is trained: what was chosen for it, and what to mind."""
    found = case(job, ())
    chosen = {field for field, _, _ in job.choices}
    return [
        *(Chosen(*choice) for choice in job.choices),
        *(
            Advised("note" if one.note else "warning", one.field, one.message, one.cure)
            for one in warn(job.config, found.facts, found.base, found.length, chosen)
        ),
    ]


def after(job: Job, folder: Path, end: Event) -> list[Event]:
    """What is to be said of a run that is about to end so: nothing of one that was stopped."""
    if isinstance(end, RunStopped):
        return []
    found = diagnose(case(job, [*events.history(folder / "events.jsonl"), end]))
    return [Advised("diagnosis", found.field, found.message, found.cure)] if found is not None else []


def case(job: Job, story: Sequence[Event]) -> Case:
    """A run as it is looked at; of pictures that look alike nothing is known then."""
    if job.config.text:
        own, base = facts_of_texts(job.texts), language_model(job.base.file, job.base.family)
    else:
        own = facts([item for item in job.items if not item.regular], job.config.trigger_word, alike=False)
        base = model(job.base.file, job.base.family)
    return Case(job, own, base, length(job), story, torch.cuda.is_available())
