"""LoRAs of finished and unfinished runs, for the nodes that load them by a run's name, and for the routes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainer import job, runfolder, runstate
from ..trainer.errors import DarkroomError, ExportError, HostError
from . import runs
from .asked import Nothing, One
from .host import clients, places
from .host.lora import LoraModel, read


@dataclass(frozen=True)
class Loaded:
    """LoRAs of one run.

    Args:
        name: what the run is called, for people.
        id: its folder's name.
        loras: by their steps, in the order that was asked for; at least one.
        notes: what the user should know.
    """

    name: str
    id: str
    loras: dict[int, LoraModel]
    notes: list[str]


def load(run: str, checkpoint: str) -> Loaded:
    """The LoRAs that a user named: see ``runs.choose`` and ``runs.choose_steps``; or a file of ComfyUI's LoRA lists.

    Raises:
        HostError: there is no such run, no such step, or no such file.
        ExportError: a file that was asked for by its step, or by its name, cannot be read.
    """
    if _is_file(run):
        return _load_file(run.strip(), checkpoint)
    found = runs.choose(places.runs(), run, clients.user())
    loaded = load_of(places.runs() / found.id, checkpoint)
    if found.state != "finished" and max(loaded.loras) not in found.finished:
        loaded.notes.append(f"the run is {found.state} at step {found.step} of {found.total}")
    return loaded


def _is_file(run: str) -> bool:
    return run.strip().lower().endswith(".safetensors")


def _load_file(name: str, checkpoint: str) -> Loaded:
    if checkpoint.strip().lower() not in ("", runs.LAST, runs.BEST, runs.ALL):
        raise HostError(f"checkpoint: {name} is a file, which has no steps to choose from", f"type {runs.LAST}")
    lora = read(places.lora(name))
    steps = lora.metadata.get("ss_steps", "")
    return Loaded(name, lora.metadata.get("darkroom.run", ""), {int(steps) if steps.isdecimal() else 0: lora}, [])


def load_of(folder: Path, checkpoint: str) -> Loaded:
    """The LoRAs of a run's folder; what cannot be read is left out and named, unless it was asked for by its step.

    Raises:
        HostError: there is no such step, or nothing can be read.
        ExportError: a file that was asked for by its step cannot be read.
    """
    state, there, notes = runstate.state(folder), runs.saved(folder), []
    if not there:
        raise HostError(f"nothing of the run {runs.label(state)} is saved yet", "wait for its first checkpoint")
    steps = runs.choose_steps(there, checkpoint, state.best and state.best.step)
    if state.best is not None and runs.BEST in re.findall(r"[a-z]+", checkpoint.lower()):
        notes.append(f"best is step {state.best.step}: {state.best.reason}")
    by_step = {int(number) for number in re.findall(r"\d+", checkpoint)}
    loras: dict[int, LoraModel] = {}
    older = [step for step in reversed(there) if step < max(there)] if steps == [max(there)] else []
    while steps:
        step = steps.pop(0)
        try:
            loras[step] = read(there[step], run=folder.name)
        except ExportError as error:
            if len(there) == 1 or step in by_step:
                raise
            notes.append(f"step {step} cannot be read and is left out: {error.message}")
            if not loras and not steps and older:  # asked for the last one: the last that is whole
                steps.append(older.pop(0))
    if not loras:
        raise HostError(f"no checkpoint of the run {runs.label(state)} can be read", "train it anew")
    return Loaded(runs.label(state), folder.name, loras, notes)


def fingerprint(run: str | None, checkpoint: str | None) -> str:
    """Changes when what ``load`` would give does; of what cannot be loaded, when the reason does.

    What is wired ComfyUI gives as None; it is known by its link.
    """
    if run is None or checkpoint is None:
        return "wired"
    try:
        if _is_file(run):
            stat = places.lora(run.strip()).stat()
            return f"{run} {stat.st_size} {stat.st_mtime_ns}"
        found = runs.choose(places.runs(), run, clients.user())
        there = runs.saved(places.runs() / found.id)
        files = [there[step] for step in runs.choose_steps(there, checkpoint, found.best and found.best.step)]
        stats = [file.stat() for file in files]
    except (HostError, OSError) as error:
        return str(error)
    return " ".join(
        [found.id, *(f"{f.parent.name}/{s.st_size}/{s.st_mtime_ns}" for f, s in zip(files, stats, strict=True))]
    )


def every_run(asked: Nothing) -> dict[str, Any]:
    """GET /runs: all runs that the client's profile sees, the newest first."""
    return {"runs": [told(state) for state in runs.every(places.runs(), clients.user())]}


def one_run(asked: One) -> dict[str, Any]:
    """GET /runs/{run}: one run, by its id, its beginning or its name, and more of it.

    Raises:
        HostError: there is no such run.
    """
    state = state_of(asked.run)
    folder = places.runs() / state.id
    return {**told(state), **runstate.details(folder), "next_checkpoint": _next_checkpoint(folder, state.step)}


def _next_checkpoint(folder: Path, step: int) -> int:
    """The step of a run's next checkpoint; 0 where that cannot be known."""
    try:
        found = job.load(folder)
        return runfolder.next_checkpoint(found.config, step, runfolder.total_steps(found))
    except DarkroomError:
        return 0


def state_of(run: str) -> runstate.RunState:
    """The run that a request names: by its id, its beginning or its name.

    Raises:
        HostError: there is no such run.
    """
    root, user = places.runs(), clients.user()
    # Names are compared with those that are there, and never made into a path: nothing outside can be reached.
    here = {state.id: state for state in runs.every(root, user)}
    return here.get(run) or runs.choose(root, run, user)


def told(state: runstate.RunState) -> dict[str, Any]:
    """A run's state, what it is called, and every step that can be loaded."""
    steps = sorted({*state.checkpoints, *state.finished})
    return {**runstate.plain(state), "label": runs.label(state), "steps": steps}
