"""Training in the background: the queue of this ComfyUI, what its nodes have handed on, and its routes."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..trainer import runstate
from ..trainer.errors import DarkroomError, HostError
from ..trainer.events import Event, RunFinished
from . import owners, runs, trained, where
from .asked import Asked, Name, Nothing, Number, One
from .foreman import Follower, Foreman
from .host import clients, places, prompts
from .host.graph import tell_page
from .live import Live
from .runqueue import RunQueue

_mutex = threading.Lock()
_nodes: dict[str, _Node] = {}
_drawn: dict[str, int] = {}  # by runs: the step of the last checkpoint that a page draws
_marks: dict[str, list[str]] = {}  # mark -> run, prompt
MOST_MARKS = 100
ANOTHERS = "(another's)"  # in place of the id of a run that another profile trains


class _Comfy:
    """This ComfyUI, as ``foreman.Host``."""

    busy = staticmethod(prompts.busy)
    interrupted = staticmethod(prompts.interrupted)
    leave_card = staticmethod(prompts.leave_card)

    def watch(self, on: bool) -> None:
        if on:
            prompts.watch(foreman().before_prompt, foreman().after_prompt)
        else:
            prompts.watch_no_more()

    def follow(self, folder: Path) -> Follower:
        _drawn.pop(folder.name, None)  # it may be trained anew
        return Live(folder, tell_page)

    def ended(self, folder: Path, end: Event | DarkroomError) -> None:
        at = (where.read(folder) or where.Where("", ""))._asdict()
        if isinstance(end, DarkroomError):
            tell_page("failed", {**at, "text": self.plain(folder, str(end))})
        elif isinstance(end, RunFinished):
            tell_page("trained", {**at, "steps": end.step, "loss": runstate.state(folder).loss})

    def plain(self, folder: Path, text: str) -> str:
        return runstate.without_paths(folder)(text)


@cache
def foreman() -> Foreman:
    """Who works through the queue of this ComfyUI."""

    def changed() -> None:
        tell_page("queue", {})  # each page asks for it: what it is told depends on its profile

    return Foreman(RunQueue(places.private(), changed), places.runs(), _Comfy(), changed)


def begin() -> None:
    """Go on with what waited when ComfyUI ended."""
    foreman().begin()


# --- what the nodes have handed on


class _Key(NamedTuple):
    """What there is of a run. Args: listed: whether it is in the queue."""

    checkpoints: tuple[int, ...]
    finished: tuple[int, ...]
    listed: bool


@dataclass
class _Node:
    """A node. Args: handed: what there was of its runs when it handed them on. last: the newest of them. token: its
    fingerprint then; to begin with one that no other node has, as ComfyUI's cache knows none."""

    handed: dict[str, _Key] = field(default_factory=dict)
    last: str = ""
    token: str = field(default_factory=secrets.token_urlsafe)


def fingerprint(node: str | None) -> str:
    """Another one when a node has something new to hand on, or its run left the queue unfinished.

    ComfyUI keeps what it computed under the fingerprint from before a node ran; what comes while it runs is not in it.
    So the former one is given again as long as there is nothing but what the node has handed on.
    """
    with _mutex:
        known = _nodes.setdefault(node or "", _Node())
        now = {run: _key(run) for run in known.handed}
        last = now.get(known.last)
        if last is not None and not last.listed and not last.finished:
            known.token = str(time.time_ns())  # it is to be queued again
        elif now != known.handed:
            known.token = repr(sorted(now.items()))
        return known.token


def handed_on(node: str, run: str) -> None:
    """A node has handed on what there is of a run."""
    with _mutex:
        known = _nodes.setdefault(node, _Node())
        known.handed[run], known.last = _key(run), run


def _key(run: str) -> _Key:
    told, state = foreman().told(), runstate.state(places.runs() / run)
    finished = state.finished if state.state == "finished" else ()
    return _Key(state.checkpoints, finished, run in (told["running"], *told["waiting"]))


# --- routes


class Wish(Asked):
    """Something that shall happen to a run in the queue."""

    action: Literal["add", "remove", "up", "down"]
    run: Name


class Drawing(One):
    """A checkpoint of a run, that a page would draw."""

    step: Number


def told(asked: Nothing) -> dict[str, Any]:
    """GET /queue: see ``Foreman.told``; of runs of other profiles only that they are there, as ``ANOTHERS``."""
    return _of_profile(foreman().told(), clients.user())


def _of_profile(queue: dict[str, Any], user: str) -> dict[str, Any]:
    def sees(run: str) -> bool:
        return owners.sees(places.runs() / run, user)

    def named(run: str) -> str:
        return run if sees(run) else ANOTHERS

    running = queue["running"]
    return {
        **queue,
        "running": running and named(running),
        "waiting": list(map(named, queue["waiting"])),
        "failed": [one for one in queue["failed"] if sees(one["run"])],
    }


def ask(asked: Wish) -> dict[str, Any]:
    """POST /queue: changes it, and tells it as it then is. The run at work is saved before it leaves.

    Raises:
        HostError: there is no such run, or it has finished.
    """
    state = trained.state_of(asked.run)
    match asked.action:
        case "add":
            if state.state == "finished":
                raise HostError(f"the run {runs.label(state)} has finished", "queue its graph with more epochs")
            foreman().add(state.id)
        case "remove":
            foreman().remove(state.id)
        case _:
            foreman().move(state.id, -1 if asked.action == "up" else 1)
    return _of_profile(foreman().told(), clients.user())


def draw(asked: Drawing) -> dict[str, Any]:
    """POST /runs/{run}/draw: whether this page shall draw a checkpoint; of several the first that asks does.

    ``mark`` is for the prompt (see ``drawn_by``), or None. ``busy``: a prompt of its workflow is still on its
    way, and this is to be asked again when it has ended.

    Raises:
        HostError: there is no such run.
    """
    run = trained.state_of(asked.run).id
    at = where.read(places.runs() / run)
    with _mutex:
        if at is None or asked.step <= _drawn.get(run, -1):
            return {"mark": None, "busy": False}
        if prompts.of_workflow(at.workflow):
            return {"mark": None, "busy": True}
        _drawn[run] = asked.step
        mark = secrets.token_hex(8)
        _marks[mark] = [run, ""]
        for old in list(_marks)[:-MOST_MARKS]:
            del _marks[old]
        return {"mark": mark, "busy": False}


def drawn_by(mark: str, prompt: str) -> str | None:
    """The run of which a prompt draws a checkpoint, by its mark; None: it is a person's.

    What a page queues by itself must not train: the run may have been stopped, or the node set to another one.
    A mark is of the first prompt with it: in a picture's workflow it may come again.
    """
    with _mutex:
        known = _marks.get(mark)
        if known is None or known[1] not in ("", prompt):
            return None
        known[1] = prompt
        return known[0]
