"""What Auto Caption does: captions of a folder, made in this process or, where a model makes them, in the worker."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL.Image import Image

from ..trainer import captioning
from ..trainer.captioning.base import Captioner, Place
from ..trainer.captioning.work import REPORT, Job
from ..trainer.dataset.pixels import Unusable, load_picture
from ..trainer.errors import RunError
from ..trainer.events import Captioned, Event, Phase, RunFailed, RunStopped, Warned
from ..trainer.sinks import clock
from . import runner
from .host import memory, places
from .host.graph import NodeProgress, check_interrupted

log = logging.getLogger("lora-darkroom")
AGAIN = "queue again: it goes on with the pictures that are left"
PREVIEW_SECONDS, PREVIEW_SIDE = 1.0, 256
LONGEST = 200  # characters of a caption that are shown while others are made


def caption(job: Job, captioner: Captioner | None = None) -> str:
    """Write the captions of a folder; what is written when the user cancels stays.

    Args:
        job: what to do; its device and its folders of models are decided here.
        captioner: one that works in this process, in place of the job's method.

    Returns:
        What was done, and what the user should know.

    Raises:
        UserError: an input cannot be used.
        RunError: the worker failed.
    """
    progress = NodeProgress()
    notes: list[str] = []

    def note(text: str) -> None:
        log.warning(text)
        notes.append(text)

    told = _told(Path(job.folder), progress, note)
    try:
        worker = captioner is None and captioning.get(job.method).models
        report = str(job.run(told, _stop, captioner, _leave if worker else None))
    except _ForTheWorker:
        memory.make_room(note, "captioning")
        report = _in_the_worker(job, told, progress)
    return "\n".join([report, *(f"- {text}" for text in notes)])


def _in_the_worker(job: Job, told: Callable[[Event], None], progress: NodeProgress) -> str:
    """Run the worker to its end, which gives all memory back."""
    places.private().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="captioning-", dir=places.private(), ignore_cleanup_errors=True) as name:
        folder = Path(name)
        job.save(folder)
        progress.say("Starting the worker")

        def check() -> None:
            try:
                check_interrupted()
            except BaseException:
                progress.say("Stopping: what is being looked at is written. Cancel once more to end at once.")
                raise

        end = runner.work(folder, told, check, runner.command(folder, "--captions"), online=job.download, cure=AGAIN)
        if isinstance(end, RunFailed):
            raise runner.failure(end, AGAIN)
        if isinstance(end, RunStopped):
            raise RunError(f"the captioning was stopped after {end.step} captions ({end.reason})", AGAIN)
        return (folder / REPORT).read_text(encoding="utf-8")


class _ForTheWorker(Exception):
    """There is something to do for a model."""


def _leave() -> Place:
    raise _ForTheWorker


def _stop() -> bool:
    check_interrupted()
    return False


def _told(root: Path, progress: NodeProgress, note: Callable[[str], None]) -> Callable[[Event], None]:
    """Shows events on the node: how far it is, and now and then a picture with its caption."""
    shown = 0.0

    def told(event: Event) -> None:
        nonlocal shown
        match event:
            case Phase():
                progress.say(event.name[:1].upper() + event.name[1:])
            case Warned():
                note(event.message)
            case Captioned():
                text = event.caption if len(event.caption) <= LONGEST else f"{event.caption[:LONGEST]} ..."
                progress.say(f"{event.done} of {event.total}, {clock(event.eta)} left: {text}")
                picture = None
                if time.monotonic() - shown > PREVIEW_SECONDS:
                    shown = time.monotonic()
                    picture = _preview(root / event.image)
                progress.set(event.done, event.total, picture)

    return told


def _preview(path: Path) -> Image | None:
    try:
        picture = load_picture(path)
    except Unusable:  # captioned by its name alone
        return None
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return picture
