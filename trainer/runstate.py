"""What a run folder tells of its run: for lists of runs, and for whoever asks how far one is.

Nothing here waits for a run or changes it. A list of hundreds of runs is cheap: of the events only the end is read, and
what was read is remembered until a file changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from . import checkpoint, events, runfolder, validation
from .events import Event, RunFailed, RunFinished, RunStarted, RunStopped, Step, Validation, Warned
from .lock import held
from .validation import Best

_T = TypeVar("_T")
TAIL = 32 * 1024
MOST_WARNINGS = 8
WIRED = "wired latents"  # the name of a run whose data set is no folder
PICTURES = "wired pictures"  # and of one whose folder is named by what is in it
_STATES: dict[type[Event], str] = {RunFinished: "finished", RunStopped: "stopped", RunFailed: "failed"}
# Paths of the machine, which nobody needs who asks for a run.
_PATHS = ("base_model", "train_data_dir", "metadata_path", "output_dir", "cache_dir", "reg_data_dir", "init_lora")
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RunState:
    """How a run stands.

    Args:
        id: the folder's name.
        name: of the data set's folder.
        family: of the base model.
        state: ``running``, ``finished``, ``stopped`` (also one whose process died) or ``failed``.
        step: optimizer steps done.
        total: its length.
        loss: the last one told; None before the first.
        seconds_left: what the rest was expected to take when the last step was told; 0 if it does not run.
        started: when it first began, in seconds since 1970; 0 if it has not.
        ended: when the last event was told, if it does not run; else 0.
        checkpoints: their steps.
        finished: the lengths that it finished with.
        best: the checkpoint to keep, by its validations; None without checkpoints.
    """

    id: str
    name: str
    family: str
    state: str
    step: int
    total: int
    loss: float | None
    seconds_left: float
    started: float
    ended: float
    checkpoints: tuple[int, ...]
    finished: tuple[int, ...]
    best: Best | None = None

    @property
    def loadable(self) -> bool:
        """Whether there is a LoRA of it."""
        return bool(self.checkpoints or self.finished)


def every(root: Path) -> list[RunState]:
    """The runs below a folder, the one that something happened to last first."""
    folders = [path for path in root.iterdir() if (path / "job.yaml").is_file()] if root.is_dir() else []
    return [state(folder) for folder in sorted(folders, key=_touched, reverse=True)]


def state(folder: Path) -> RunState:
    """How the run of a folder stands. A damaged folder gives what can still be read."""
    found = _remembered("state", folder, _read)
    if found.state != "running":
        return found
    if held(folder):
        return replace(found, ended=0.0)
    return replace(found, state="stopped", seconds_left=0.0)  # its process died without a word


def details(folder: Path) -> dict[str, Any]:
    """``state`` as plain data, and what one run is asked for.

    ``validation`` ([{step, signal, loss}]), ``warnings`` (the last ones), ``failure`` ({message, cure}, or None), and
    ``config``: the fields of the run, with names in place of paths.
    """
    return {**plain(state(folder)), **_remembered("details", folder, _details)}


def plain(found: RunState) -> dict[str, Any]:
    """A state as JSON knows it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(found).items()}


def lengths(folder: Path) -> dict[int, Path]:
    """The finished files of a run: {steps: file}. A shorter length is kept below ``finished``."""
    found: dict[int, Path] = {}
    for place in (*(folder / "finished").glob("*"), folder):
        result = runfolder.read_result(place)
        file = place / str(result.get("path"))
        if result and file.is_file():
            found[int(result["step"])] = file
    return dict(sorted(found.items()))


def _read(folder: Path) -> RunState:
    job = _job(folder)
    last, closing, loss, step, total, left = 0.0, None, None, 0, 0, 0.0
    for when, event in _backwards(folder / "events.jsonl"):
        if not last:
            last, closing = when, event if event.terminal else None
        match event:
            case Step():
                loss, left = event.loss, event.eta
                step, total = step or event.step, event.total
                break
            case RunStarted():
                step, total, left = step or event.step, event.total_steps, event.seconds
                break
            case RunFinished() | RunStopped():
                step = step or event.step
    runs = closing is None
    return RunState(
        id=folder.name,
        name=_name(Path(job.get("config", {}).get("train_data_dir") or ".").name),
        family=job.get("base", {}).get("family", ""),
        state="running" if runs else _STATES[type(closing)],
        step=step,
        total=total,
        loss=loss if loss is not None and loss - loss == 0 else None,
        seconds_left=left if runs else 0.0,
        started=_first(folder / "events.jsonl"),
        ended=last,
        checkpoints=tuple(checkpoint.complete(folder)),
        finished=tuple(lengths(folder)),
        best=validation.of(folder),
    )


def _name(folder: str) -> str:
    return PICTURES if re.fullmatch(r"[0-9a-f]{32}", folder) else folder or WIRED


def without_paths(folder: Path) -> Callable[[str], str]:
    """A function that gives a text of a run with names in place of the machine's paths."""
    return _without(folder, _job(folder).get("config", {}))


def _details(folder: Path) -> dict[str, Any]:
    config = _job(folder).get("config", {})
    shown = _without(folder, config)
    story = list(events.history(folder / "events.jsonl"))
    warned = dict.fromkeys(event.message for event in story if isinstance(event, Warned))
    failure = story[-1] if story and isinstance(story[-1], RunFailed) else None
    return {
        "validation": [
            {"step": event.step, "signal": event.signal, "loss": event.loss if event.loss - event.loss == 0 else None}
            for event in story
            if isinstance(event, Validation)
        ],
        "warnings": [shown(text) for text in list(warned)[-MOST_WARNINGS:]],
        "failure": failure and {"message": shown(failure.message), "cure": shown(failure.cure)},
        "config": {n: Path(v).name if n in _PATHS and isinstance(v, str) else v for n, v in config.items()},
    }


def _without(folder: Path, config: dict[str, Any]) -> Callable[[str], str]:
    roots = [str(folder), *(str(config[name]) for name in _PATHS if config.get(name))]
    above = {str(Path(root).parent) for root in roots} | {Path(root).parent.as_posix() for root in roots}

    def shown(text: str) -> str:
        for root in sorted(roots, key=len, reverse=True):
            for path in {root, str(Path(root)), Path(root).as_posix()}:
                text = text.replace(path, Path(root).name)
        for path in sorted(above, key=len, reverse=True):
            if len(path) > 1:
                text = re.sub(re.escape(path) + r"[\\/]", "", text)
        return text

    return shown


def _job(folder: Path) -> dict[str, Any]:
    try:
        # Not yaml_text, which is six times as slow: of what we wrote ourselves it makes the same.
        data = yaml.load((folder / "job.yaml").read_text(encoding="utf-8"), Loader=_SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def _backwards(path: Path) -> Iterator[tuple[float, Event]]:
    """(time, event) from the last to the first; the file is read only as far as it is asked for."""
    try:
        with path.open("rb") as file:
            end, rest = file.seek(0, 2), b""
            while end:
                start = max(0, end - TAIL)
                file.seek(start)
                first, *lines = (file.read(end - start) + rest).split(b"\n")
                end, rest = start, first
                for line in reversed(lines if start else [first, *lines]):
                    yield from _decoded(line)
    except OSError:
        return


def _first(path: Path) -> float:
    """The time of the first event; 0 if there is none."""
    try:
        with path.open("rb") as file:
            return next((when for line in file for when, _ in _decoded(line)), 0.0)
    except OSError:
        return 0.0


def _decoded(line: bytes) -> Iterator[tuple[float, Event]]:
    text = line.decode("utf-8", errors="replace")
    event = events.decode(text) if text.strip() else None
    if event is not None:
        yield float(json.loads(text).get("t") or 0.0), event


def _touched(folder: Path) -> int:
    """When something last happened to a run, in nanoseconds."""
    return max(when for when, _ in _stamp(folder))


def _stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """(mtime, size) of all that a state is read from."""
    return tuple(map(_stat, (folder / n for n in ("job.yaml", "events.jsonl", "result.json", "checkpoints"))))


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


_memory: dict[tuple[str, Path], tuple[Any, Any]] = {}


def _remembered(what: str, folder: Path, read: Callable[[Path], _T]) -> _T:
    """What ``read`` gives, until a file of the run changes."""
    stamp = _stamp(folder)
    known = _memory.get((what, folder))
    if known is None or known[0] != stamp:
        known = _memory[what, folder] = (stamp, read(folder))
    return known[1]
