"""What a run tells: typed events, their JSON-lines codec, and the ``Sink`` protocol.

One line of ``events.jsonl`` is ``{"v": 1, "run": ..., "seq": ..., "t": ..., "type": ..., <fields>}``. Values are JSON
scalars (and dicts of numbers); paths are relative to the run folder, with forward slashes. The outcome of a run is
its terminal event, never an exit code. Readers ignore types that they do not know.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")
VERSION = 1
HELD_OUT, TRAIN, DRIFT = "held_out", "train", "drift"
"""What a validation measures: the loss on samples that are not trained on, the loss on a few that are, and how far the
model has moved where it should not have (the squared distance of its predictions from the base model's)."""


@dataclass(frozen=True)
class Event:
    """Base of all events. Terminal ones end a run."""

    terminal: ClassVar[bool] = False


@dataclass(frozen=True)
class RunStarted(Event):
    """A process began to work on the run (again, if ``step`` is above 0).

    ``images`` are trained on, ``regularisation`` of them for the class; ``held_out`` are others, for validation.
    ``text`` says that these are texts. ``parameters`` are those that are not trained; ``buckets`` how many images there
    are of a size, such as 512x768; ``seconds`` what the rest is expected to take, by one trial (0: not tried). ``card``
    is what the device is called, of the first of ``processes`` that train together.
    """

    name: str
    step: int
    total_steps: int
    epochs: int
    images: int
    effective_batch: int
    trainable: int
    parameters: int
    device: str
    precision: str
    buckets: dict[str, int] = field(default_factory=dict)
    file_size: int = 0
    seconds: float = 0.0
    held_out: int = 0
    regularisation: int = 0
    card: str = ""
    text: bool = False
    processes: int = 1


@dataclass(frozen=True)
class MemoryPlan(Event):
    """What a run will need of the memory, in bytes, part by part, measured by a dry step.

    ``process`` is what is there beside (on a CPU Python and torch); ``activations`` and ``samples`` (or validations)
    are not needed at the same time. ``free`` is what there is for ``total``; ``switches`` what each further thing that
    could be given up would save by our reckoning. The rest is how it trains: ``precision``, ``batch`` images at a time,
    with ``checkpointing``; ``how`` says it all in words.
    """

    device: str
    total: int
    free: int
    process: int
    base: int
    adapter: int
    activations: int
    samples: int
    precision: str
    batch: int
    checkpointing: bool
    how: str = ""
    switches: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase(Event):
    """What is being done, and how far: ``done`` of ``total`` (0: unknown)."""

    name: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step, told every ``log_interval`` steps. ``loss`` is the mean since the last one."""

    step: int
    total: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float  # per optimizer step
    memory: int  # peak bytes on the device (on a CPU: of the process)
    eta: float  # seconds to the end


@dataclass(frozen=True)
class Validation(Event):
    """The objective on fixed samples, noise and timesteps. ``signal``: HELD_OUT, TRAIN or DRIFT.

    ``perplexity`` is a language model's, on the mean of the texts' losses a token; 0 where there is none.
    """

    step: int
    signal: str
    loss: float
    by_timestep: dict[str, float] = field(default_factory=dict)
    perplexity: float = 0.0


@dataclass(frozen=True)
class Sample(Event):
    """A picture drawn while training: its latents, and the picture where the trainer has a VAE; or a model's answer."""

    step: int
    index: int
    prompt: str
    latents: str = ""
    image: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Checkpoint(Event):
    """A complete, verified checkpoint."""

    step: int
    path: str
    change: float  # norm of the LoRA's change of the weights


@dataclass(frozen=True)
class Captioned(Event):
    """Captions were written, ``done`` of ``total``; the last image, relative to its folder, and its caption."""

    image: str
    caption: str
    done: int
    total: int
    eta: float  # seconds to the end


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know."""

    message: str


@dataclass(frozen=True)
class Chosen(Event):
    """What an ``auto`` of the config became, and why."""

    field: str
    value: str
    why: str


@dataclass(frozen=True)
class Advised(Event):
    """What the advisor says: the field that it is about, what is the matter, and what to change.

    ``kind``: note or warning (before the training), diagnosis (after it).
    """

    kind: str
    field: str
    message: str
    cure: str = ""


@dataclass(frozen=True)
class RunFinished(Event):
    """All steps done; ``path`` is the LoRA.

    ``stopped``: why it ended before its time. ``best`` is the checkpoint to keep, and ``reason`` why (0: not known).
    """

    terminal: ClassVar[bool] = True
    step: int
    path: str
    stopped: str = ""
    best: int = 0
    reason: str = ""


@dataclass(frozen=True)
class RunStopped(Event):
    """Stopped on request; all steps so far are saved."""

    terminal: ClassVar[bool] = True
    step: int
    reason: str


@dataclass(frozen=True)
class RunFailed(Event):
    """The run failed: what happened, and the cure. ``user`` tells a mistake of the user's from a fault of the run."""

    terminal: ClassVar[bool] = True
    message: str
    cure: str = ""
    user: bool = False
    details: str = ""


_TYPES: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        RunStarted,
        MemoryPlan,
        Phase,
        Step,
        Validation,
        Sample,
        Checkpoint,
        Captioned,
        Warned,
        Chosen,
        Advised,
        RunFinished,
        RunStopped,
        RunFailed,
    )
}


class Sink(Protocol):
    """Takes events as they happen."""

    def __call__(self, event: Event, /) -> None:
        """Takes one event; must not raise for reasons of its own."""
        ...


def encode(event: Event, *, run: str, seq: int, t: float) -> str:
    """One JSON line, without its line end. Non-finite numbers become null."""
    body = {name: _plain(value) for name, value in asdict(event).items()}
    head = {"v": VERSION, "run": run, "seq": seq, "t": round(t, 3), "type": type(event).__name__}
    return json.dumps({**head, **body}, ensure_ascii=False, allow_nan=False)


def decode(line: str) -> Event | None:
    """The event of a line; None for a type this version does not know, or half a line."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError:
        return None
    cls = _TYPES.get(str(data.get("type"))) if isinstance(data, dict) else None
    if cls is None:
        return None
    known = {f.name: _from_plain(data[f.name]) for f in fields(cls) if f.name in data}
    try:
        return cls(**known)
    except TypeError:  # a required field is missing: written by another version
        return None


def read(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events from byte ``offset`` on, and the offset after the last whole line. A missing file has none."""
    lines, offset = read_lines(path, offset)
    return [event for event in map(decode, lines) if event is not None], offset


def read_lines(path: Path, offset: int = 0) -> tuple[list[str], int]:
    """As ``read``, the lines as they stand."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data.rfind(b"\n") + 1
    # Not splitlines: it would also break a line at U+2028 and its like within a text.
    return data[:whole].decode("utf-8", errors="replace").split("\n"), offset + whole


def history(path: Path) -> Iterator[Event]:
    """All events of a run, as if it had never been interrupted: steps that a resumed run did again count once."""

    def begun(event: Event) -> int | None:
        return event.step if isinstance(event, RunStarted) else None

    yield from unbroken(read(path)[0], begun, lambda event: getattr(event, "step", -1))


def unbroken(told: Iterable[T], begun: Callable[[T], int | None], step: Callable[[T], int]) -> list[T]:
    """What a run told, as if it had never been interrupted.

    A checkpoint is the point of return: what lies after the last one before a new ``RunStarted`` was lost. A run
    that begins at step 0 again does all again, the validation before the first step too.

    Args:
        told: in order.
        begun: the step at which a process began, if this tells it; else None.
        step: that something belongs to; -1: to none.
    """
    kept: list[T] = []
    for one in told:
        point = begun(one)
        if point is not None:
            kept = [before for before in kept if step(before) <= (point or -1)]
        kept.append(one)
    return kept


def shown(samples: Sequence[Sample], step: int) -> list[Sample]:
    """The samples of the last step up to one that has some; of the first that has, if all came later."""
    before = [sample.step for sample in samples if sample.step <= step] or [sample.step for sample in samples[:1]]
    return sorted((sample for sample in samples if sample.step == max(before)), key=lambda sample: sample.index)


class Journal:
    """A sink that appends to ``events.jsonl``, numbering on from what is there."""

    def __init__(self, path: Path, run: str) -> None:
        self._run = run
        self._seq = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            data = path.read_bytes()
            self._seq = data.count(b"\n")
            if data and not data.endswith(b"\n"):  # killed in mid-line
                with path.open("ab") as file:
                    file.write(b"\n")
                self._seq += 1
        self._file = path.open("ab", buffering=0)
        self._torn = False

    def __call__(self, event: Event) -> None:
        """Appends one event and hands it to the system at once.

        Raises:
            OSError: the disk does not take it; later events may still be written.
        """
        # A file's name that is no UTF-8 becomes its JSON escape, and so comes back.
        text = f"{encode(event, run=self._run, seq=self._seq, t=time.time())}\n"
        line = b"\n" * self._torn + text.encode("utf-8", errors="backslashreplace")
        written = self._file.write(line) or 0
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self._seq += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_plain(item) for key, item in value.items()}
    return float("nan") if value is None else value
