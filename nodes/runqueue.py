"""Runs that wait for their turn: a list in the pack's private folder, so that it survives a restart of ComfyUI."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..trainer.files import replace, write_json
from ..trainer.lock import locked

log = logging.getLogger("lora-darkroom")
FILE, LOCK = "queue.json", "queue.json.lock"
MOST_FAILED = 20


@dataclass(frozen=True)
class Failure:
    """A run that left the queue because it failed. Args: t: when, in seconds since 1970."""

    run: str
    message: str
    cure: str = ""
    t: float = 0.0


@dataclass
class Listed:
    """What is in the queue.

    Args:
        runs: ids, in the order in which they are trained; the first may be at work.
        failed: those that left it by a failure, the last one last, until they are added again.
        note: what the user should know of the queue itself.
    """

    runs: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    note: str = ""


class RunQueue:
    """The list, for all threads, and all ComfyUIs on one user folder.

    Args:
        folder: where its file lies.
        changed: told whenever the list is another one.
    """

    def __init__(self, folder: Path, changed: Callable[[], None] = lambda: None) -> None:
        self.folder, self._file, self._changed = folder, folder / FILE, changed
        self._mutex = threading.Lock()

    def read(self) -> Listed:
        """What is in it. A file that cannot be read is set aside, and that is told in the list's note."""
        try:
            return _parsed(self._file.read_bytes())
        except FileNotFoundError:
            return Listed()
        except OSError as error:
            log.warning("the queue %s cannot be read: %s", self._file, error)
            return Listed()
        except (ValueError, TypeError, KeyError):
            with self._edited():
                pass
            return self.read()

    def add(self, run: str) -> bool:
        """Put a run at the end, unless it is in; what it failed with before is forgotten. Returns whether it is new."""
        with self._edited() as listed:
            listed.failed = [one for one in listed.failed if one.run != run]
            if new := run not in listed.runs:
                listed.runs.append(run)
        return new

    def remove(self, run: str) -> None:
        """Take a run out, and forget how it failed."""
        with self._edited() as listed:
            listed.runs = [one for one in listed.runs if one != run]
            listed.failed = [one for one in listed.failed if one.run != run]

    def fail(self, run: str, message: str, cure: str = "") -> None:
        """Take a run out, with the reason."""
        with self._edited() as listed:
            listed.runs = [one for one in listed.runs if one != run]
            others = [one for one in listed.failed if one.run != run]
            listed.failed = [*others, Failure(run, message, cure, round(time.time(), 3))][-MOST_FAILED:]

    def move(self, run: str, by: int, behind: str | None = None) -> None:
        """Let a run come earlier (-1) or later (1), but never before ``behind``, which is at work."""
        with self._edited() as listed:
            if run not in listed.runs:
                return
            place = listed.runs.index(run)
            first = 1 if listed.runs[0] == behind else 0
            to = min(max(place + by, first), len(listed.runs) - 1)
            listed.runs.insert(to, listed.runs.pop(place))

    @contextmanager
    def _edited(self) -> Iterator[Listed]:
        """The list, written when it has been changed."""
        with self._mutex, locked(self.folder, LOCK, "try it once more"):
            try:
                listed = _parsed(self._file.read_bytes())
            except FileNotFoundError:
                listed = Listed()
            except (ValueError, TypeError, KeyError):
                listed = Listed(note=self._set_aside())
                write_json(self._file, asdict(listed))
            before = asdict(listed)
            yield listed
            after = asdict(listed)
            if after != before:
                if listed.runs != before["runs"]:
                    listed.note = after["note"] = ""  # it was seen, if ever
                write_json(self._file, after)
        if after != before:
            self._changed()

    def _set_aside(self) -> str:
        aside = self._file.with_name(f"queue.damaged-{time.time_ns() // 10**6}.json")
        replace(self._file, aside)
        note = f"the queue of runs was damaged and is set aside as {aside.name}; queue again what waited in it"
        log.warning("%s (in %s)", note, self.folder)
        return note


def _parsed(data: bytes) -> Listed:
    """A queue's file.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    found: Any = json.loads(data)
    runs = found["runs"]
    if not isinstance(runs, list) or not all(isinstance(run, str) for run in runs):
        raise ValueError("no list of runs")
    failed = [
        Failure(str(one["run"]), str(one["message"]), str(one["cure"]), float(one["t"])) for one in found["failed"]
    ]
    return Listed(list(dict.fromkeys(runs)), failed, str(found.get("note", "")))
