"""Advice: what ``auto`` becomes, what to mind before a training, and what to change after it.

``facts`` of the pictures and ``decide`` turn every ``auto`` of a config into a value with its reason; ``warn`` says
what the guide warns of. All is reckoned from what is known before (settings, pictures, the base file's header); nothing
is measured, and nothing is changed that a user has set.
"""

from __future__ import annotations

from pathlib import Path

from .. import runfolder
from ..dataset.sampler import windows_per_epoch
from ..errors import BaseModelError
from ..events import Advised, Chosen, Event
from ..figures import BASES
from ..job import Job
from ..peek import Peek, peek
from .cautions import Advice, Length, warn
from .choices import Choice, Room, decide
from .facts import Facts, facts

__all__ = ["Advice", "Choice", "Facts", "Length", "Room", "before", "decide", "facts", "length", "model", "warn"]


def model(file: Path, family: str) -> Peek:
    """What a base model is. One whose file does not tell its size is taken for one of full size."""
    try:
        return peek(file)
    except BaseModelError:
        return Peek(family, BASES[family])


def length(job: Job) -> Length:
    """How long a job is."""
    steps, own = runfolder.total_steps(job), [item for item in job.train_items if not item.regular]
    epochs = steps / windows_per_epoch(job.train_items, job.config.window)
    return Length(steps, epochs * sum(item.repeats for item in own))


def before(job: Job) -> list[Event]:
    """What is to be said of a job before it is trained: what was chosen for it, and what to mind."""
    own = facts([item for item in job.items if not item.regular], job.config.trigger_word, alike=False)
    chosen = {field for field, _, _ in job.choices}
    base = model(job.base.file, job.base.family)
    return [
        *(Chosen(*choice) for choice in job.choices),
        *(
            Advised("note" if one.note else "warning", one.field, one.message, one.cure)
            for one in warn(job.config, own, base, length(job), chosen)
        ),
    ]
