"""A whole captioning as one value: what the command line fills in, and what the worker process is handed as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import control, device
from ..events import Event, Journal, Phase, RunFinished, RunStopped, Sink
from ..failures import failed
from ..files import write_json, write_text
from . import models, registry
from .base import Captioner, Place, Tagging, Wish
from .label import Report, label
from .rules import Rules

JOB, REPORT = "captions.json", "report.txt"
PURPOSES: dict[str, str] = {
    "plain": "everything that is seen",
    "style": "everything but the style, which the trigger word is to stand for",
    "character": "all that may change from picture to picture, not who it is",
}


@dataclass(frozen=True)
class Job:
    """What is to be captioned, and how; see ``label``.

    Args:
        folder: the images.
        output: empty for the usual place.
        method: name of a captioner.
        mode: what becomes of captions that are there.
        format: csv or txt.
        wish: what is asked of the captioner, the trigger word too.
        rules: what is done to each caption.
        model: of the captioner; see ``models.find``.
        folders: where models lie.
        download: whether the model may be fetched.
        device: as torch names it, or ``auto``.
        batch: images at a time; 0: as many as suit the device.
        exclude: names of images that get no caption.
    """

    folder: str
    output: str = ""
    method: str = "filename"
    mode: str = "missing"
    format: str = "csv"
    wish: Wish = field(default_factory=Wish)
    rules: Rules = field(default_factory=Rules)
    model: str = ""
    folders: tuple[str, ...] = ()
    download: bool = False
    device: str = "auto"
    batch: int = 0
    exclude: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write it into a folder, for ``work``."""
        write_json(folder / JOB, asdict(self))

    def run(
        self,
        emit: Sink,
        stop: Callable[[], bool] = lambda: False,
        captioner: Captioner | None = None,
        place: Callable[[], Place] | None = None,
    ) -> Report:
        """Find the model, and caption.

        Args:
            emit: see ``label``.
            stop: see ``label``.
            captioner: one of the caller's own, in place of the method's.
            place: called if there is an image to caption; by default it finds the model.

        Raises:
            UserError: see ``label`` and ``models.find``; the device is not there.
        """
        captioner = captioner or registry.get(self.method)

        def found() -> Place:
            bare = Place(device=str(device.named(self.device)), batch=self.batch)
            if not captioner.models:
                return bare
            folders = [Path(folder) for folder in self.folders]
            model = models.find(
                captioner, self.model, folders, download=self.download, say=lambda text: emit(Phase(text))
            )
            return replace(bare, model=model)

        return label(
            self.folder,
            output=self.output or None,
            method=captioner,
            trigger_word=self.wish.trigger_word,
            mode=self.mode,
            format=self.format,
            wish=self.wish,
            rules=self.rules,
            place=place or found,
            exclude=self.exclude,
            emit=emit,
            stop=stop,
        )


def tags(text: str) -> tuple[str, ...]:
    """Tags with commas between."""
    return tuple(tag for part in text.split(",") if (tag := part.strip()))


def load(folder: Path) -> Job:
    """The job in a folder."""
    data: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    tagging = {name: _tuples(value) for name, value in data["wish"].pop("tagging").items()}
    wish = Wish(**data.pop("wish"), tagging=Tagging(**tagging))
    rules = Rules(**{name: _tuples(value) for name, value in data.pop("rules").items()})
    return Job(**{name: _tuples(value) for name, value in data.items()}, wish=wish, rules=rules)


def work(folder: Path, stop: Callable[[], bool]) -> Event:
    """Does the job in a folder, as the worker of ComfyUI's node.

    Args:
        folder: with the job; gets ``events.jsonl``, and ``report.txt`` with what was done.
        stop: asked between batches, beside ``control.json``.

    Returns:
        The terminal event.
    """
    journal = Journal(folder / "events.jsonl", folder.name)
    poll = control.Poll(folder / "control.json")
    try:
        report = load(folder).run(journal, lambda: poll().stop or stop())
        write_text(folder / REPORT, str(report))
        done = len(report.written)
        end = RunStopped(done, "as asked") if report.left else RunFinished(done, str(report.output))
    except Exception as error:
        end = failed(error, folder, "a smaller model")
    journal(end)
    journal.close()
    return end


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
