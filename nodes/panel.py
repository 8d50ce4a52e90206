"""What the panel of Train LoRA asks the server for, and asks of a run."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from ..trainer import control, events
from ..trainer.control import Requests
from ..trainer.errors import HostError
from . import live, runs, story, trained, where
from .asked import Asked, Name, Number, One
from .host import clients, places


class Of(Asked):
    """A workflow, by its id."""

    workflow: Name


class Story(One):
    """A run, and the number of the line of its journal that is known already."""

    after: Number | None = None


class Sample(One):
    """A picture of a run's samples."""

    name: Name


class Control(One):
    """Something that a run shall do."""

    action: Literal["pause", "resume", "stop", "keep", "save", "sample"]


def nodes(asked: Of) -> dict[str, Any]:
    """GET /shown: {nodes: {execution id: {run, phase, trial}}}: what each node of a workflow shows, and does now."""
    shown, now = where.runs_of(places.runs(), asked.workflow, clients.user()), live.phases(asked.workflow)
    trials = live.trials(asked.workflow)
    return {
        "nodes": {
            node: {"run": shown.get(node), "phase": now.get(node), "trial": trials.get(node)}
            for node in sorted({*shown, *now, *trials})
        }
    }


def told(asked: Story) -> dict[str, Any]:
    """GET /runs/{run}/story: the run, as /runs gives it, and what has happened in it (``story.of``).

    Raises:
        HostError: there is no such run.
    """
    state = trained.state_of(asked.run)
    return {"run": trained.told(state), **story.of(places.runs() / state.id, asked.after)}


def picture(asked: Sample) -> Path:
    """GET /runs/{run}/samples/{name}: a picture.

    Raises:
        HostError: there is no such run, or no such picture.
    """
    folder = places.runs() / trained.state_of(asked.run).id / "samples"
    # The name is compared with those that are there, and never made into a path.
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name == asked.name and file.suffix in (".webp", ".png"):
            return file
    raise HostError(f"name: there is no sample {asked.name[:80]}", "the run's story says which there are")


def ask(asked: Control) -> dict[str, Any]:
    """POST /runs/{run}/control: {run, requests}. ``keep`` stops, and lets the node hand on what is saved.

    Raises:
        HostError: there is no such run, or it does not run.
    """
    state = trained.state_of(asked.run)
    folder = places.runs() / state.id
    if state.state != "running":
        raise HostError(f"the run {runs.label(state)} is {state.state}, not running", "queue it again: it goes on")
    now = control.change(folder / "control.json", lambda requests: _with(requests, asked.action, folder))
    return {"run": state.id, "requests": asdict(now)}


def _with(now: Requests, action: str, folder: Path) -> Requests:
    """The requests to a run, and one more."""
    match action:
        case "pause" | "resume":
            return replace(now, pause=action == "pause")
        case "save":
            return replace(now, save=now.save + 1)
        case "sample":
            return replace(now, sample=now.sample + 1)
        case "keep":
            # The node hands on pictures too: where none is drawn yet, they are at the end.
            drawn = any(isinstance(event, events.Sample) for event in events.history(folder / "events.jsonl"))
            return replace(now, stop=True, keep=True, sample=now.sample + (not drawn))
        case _:
            return replace(now, stop=True, keep=False)
