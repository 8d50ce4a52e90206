"""The command ``sweep``: the same run with one field varied, and what is worth keeping of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from . import comparison, run, yaml_text
from . import job as jobs
from .comparison import Trial
from .config import TrainConfig
from .errors import ConfigError
from .events import Event, RunFailed, RunFinished, RunStopped, Sink
from .files import write_text
from .job import Job
from .runfolder import finished, total_steps

_OWN = ("output_dir", "cache_dir", "task_type")
_AT_THE_END = 1_000_000


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Args:
        field: what is varied.
        values: in words.
        runs: the config of each value, in a folder of its own below ``root``.
        root: the folder of all.
    """

    field: str
    values: tuple[str, ...]
    runs: tuple[TrainConfig, ...]
    root: Path


def read(text: str) -> tuple[str, list[Any]]:
    """A field and its values, of ``lora_rank=4,8,16``.

    Raises:
        ConfigError: it is of another form.
    """
    field, equals, values = text.partition("=")
    if not equals or not field.strip():
        raise ConfigError([f"{text}: expected FIELD=VALUE,VALUE,..., such as lora_rank=4,8,16"], "--vary")
    return field.strip(), list(yaml_text.loads(f"[{values}]"))


def plan(config: TrainConfig, field: str, values: Sequence[Any]) -> Plan:
    """The runs of a sweep, all of them checked before the first begins.

    What is compared must be there: without validation there is one after the last step, without samples they are drawn
    then.

    Args:
        config: what all have in common; its ``output_dir`` is the folder of the sweep.
        field: the field that is varied.
        values: its values; at least two.

    Raises:
        ConfigError: there is no such field, or it does not take a value.
    """
    if field in _OWN or field not in TrainConfig.model_fields:
        raise ConfigError([f"{field}: expected a field of the config that shapes a run, such as lora_rank"], "--vary")
    if len(values) < 2:
        raise ConfigError([f"{field}: expected two values or more, got {len(values)}"], "--vary")
    root = config.resolved().output_dir
    both = {
        "validation_steps": config.validation_steps or _AT_THE_END,
        "sample_every": config.sample_every or _AT_THE_END,
    }
    words = tuple(comparison.words(value) for value in values)
    runs, faults = [], []
    for value, word in zip(values, words, strict=True):
        try:
            folder = root / f"{config.name}-{field}-{_in_a_name(word)}"
            runs.append(config.but(**{**both, field: value, "output_dir": folder.as_posix()}))
        except ConfigError as error:
            faults += error.problems
    if faults:
        raise ConfigError(faults, "--vary")
    return Plan(field, words, tuple(runs), root)


def start(
    found: Plan, sinks: Sequence[Sink], stop: Callable[[], bool], say: Callable[[str], None]
) -> list[Trial] | None:
    """Trains what is not yet trained, one after the other.

    A run that has finished is found again by its identity, in whichever folder below the root it lies: also one of
    another sweep. One that fails is told, and the others go on.

    Args:
        found: from ``plan``.
        sinks: told the events of every run.
        stop: polled; what was done by then is found again.
        say: takes a line before each run.

    Returns:
        What each gave; None if it was stopped.
    """
    trials = []
    for number, (value, config) in enumerate(zip(found.values, found.runs, strict=True), 1):
        say(f"\n{found.field} {value} ({number} of {len(found.runs)})")
        place = _Place(found.root)
        end = run.start(config, sinks, stop, place=place)
        if isinstance(end, RunStopped):
            return None
        trials.append(_trial(value, place.folder, end))
    return trials


class _Place:
    """Where a run of the sweep lies: where it has finished already, or in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self._root, self.folder = root, root

    def __call__(self, job: Job) -> Path:
        self.folder = own = job.config.output_dir
        others = sorted(path.parent for path in self._root.glob("*/job.yaml"))
        for folder in [own, *others]:
            ended = finished(folder, total_steps(job), job.config.early_stopping_patience)
            if ended and jobs.load(folder).run_id == job.run_id:
                self.folder = folder
                break
        return self.folder


def _trial(value: str, folder: Path, end: Event) -> Trial:
    if isinstance(end, RunFailed):
        return Trial(value, folder, failure=end.message)
    assert isinstance(end, RunFinished)
    return comparison.trial(value, folder)


def write(found: Plan, trials: Sequence[Trial]) -> str:
    """Writes table and grid below the root. Returns the table, and where they are."""
    verdict = comparison.judge(found.field, trials)
    files = [found.root / f"sweep-{found.field}.csv", found.root / f"sweep-{found.field}.png"]
    write_text(files[0], comparison.as_csv(found.field, trials, verdict))
    pictures = [{} if one.failure else _pictures(one) for one in trials]
    grid = comparison.grid(found.field, trials, pictures)
    if grid is not None:
        grid.save(files[1])
    there = "\n".join(str(file) for file in files[: 1 + (grid is not None)])
    return f"{comparison.table(found.field, trials, verdict)}\n{there}"


def _pictures(one: Trial) -> dict[str, Image.Image]:
    found = {}
    for prompt, sample in comparison.samples(one).items():
        if sample.image:
            with Image.open(one.folder / sample.image) as picture:
                found[prompt] = picture.convert("RGB")
    return found


def _in_a_name(word: str) -> str:
    """A value as a part of a folder's name, on any system."""
    return "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in word)[:60]
