"""What trains now, told to every open page as it happens: ``darkroom.run`` {run, workflow, node, events}.

``events`` are lines of the run's journal, each with its number ``seq`` (see ``story``); those without one are told by
ComfyUI itself, while no worker runs yet or any more: ``Phase``, ``Trial`` (which of several runs of a node this is),
and ``Idle`` when the node has ended. A page that comes later asks for the story, and for the phase that is going on
(``phases``) and the run among several (``trials``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..trainer.errors import DarkroomError
from . import owners, story, where
from .where import Where

Tell = Callable[[str, dict[str, Any]], None]
"""Sends an event to every page."""
EVERY = 0.2  # seconds between two messages of a run
MOST = 400  # lines in a message

_now: dict[Where, dict[str, Any]] = {}
_trials: dict[Where, str] = {}


class Live:
    """Follows a run's journal for the page. Call it all the time while a worker runs, and ``close`` it at the end.

    Args:
        folder: the run's, with its job.
        tell: sends an event to every page.
    """

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._folder, self._tell = folder, tell
        self._journal = folder / "events.jsonl"
        self._offset = self._journal.stat().st_size if self._journal.exists() else 0
        self._plain = story.for_the_page(folder)
        self._next = 0.0

    def __call__(self) -> None:
        """Tell what is new, unless something was told just now."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._read()

    def close(self) -> None:
        """Tell what is left."""
        self._read()

    def _read(self) -> None:
        lines, self._offset = story.read(self._journal, self._offset)
        at = where.read(self._folder) or Where("", "")
        if lines:
            _now.pop(at, None)  # the worker speaks for itself
        for begin in range(0, len(lines), MOST):
            told = [self._plain(line) for line in lines[begin : begin + MOST]]
            self._tell("run", {"run": self._folder.name, **at._asdict(), "events": told})


class Phases:
    """What a node does before and after its worker, for the page; at most a few messages a second. A context.

    Args:
        at: the node.
        tell: sends an event to every page.
        user: the profile that queued it; empty where there are none.
    """

    def __init__(self, at: Where, tell: Tell, user: str = "") -> None:
        self.at, self._tell, self._user = at, tell, user
        self.run = ""
        """The run that it trains, once that is known."""
        self._name, self._next = "", 0.0

    def __call__(self, name: str, done: int = 0, total: int = 0) -> None:
        """Something is being done, ``done`` of ``total`` (0: unknown)."""
        now = {"type": "Phase", "name": name, "done": done, "total": total, "t": time.time()}
        _now[self.at] = now
        if name != self._name or time.monotonic() >= self._next:
            self._name, self._next = name, time.monotonic() + EVERY
            self._send(now)

    def trial(self, text: str) -> None:
        """Of several runs that the node trains, this one is next, in words."""
        _trials[self.at] = text
        self._send({"type": "Trial", "text": text})

    def show(self, folder: Path) -> None:
        """The node shows this run from now on."""
        self.run = folder.name
        where.write(folder, self.at)
        owners.add(folder, self._user)
        self._send()

    def __enter__(self) -> Phases:
        """Until the node has ended."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _now.pop(self.at, None)
        _trials.pop(self.at, None)
        self._send({"type": "Idle", "failure": str(error) if isinstance(error, DarkroomError) else ""})

    def _send(self, *events: dict[str, Any]) -> None:
        self._tell("run", {"run": self.run, **self.at._asdict(), "events": list(events)})


def phases(workflow: str) -> dict[str, dict[str, Any]]:
    """What ComfyUI itself does now for nodes of a workflow: {node: Phase}."""
    return {at.node: now for at, now in list(_now.items()) if at.workflow == workflow}


def trials(workflow: str) -> dict[str, str]:
    """Which of their runs the nodes of a workflow train now, where there are several: {node: in words}."""
    return {at.node: text for at, text in list(_trials.items()) if at.workflow == workflow}
