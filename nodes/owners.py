"""Whose a run is, where ComfyUI has profiles (``--multi-user``): ``owners.json`` in its folder.

A profile is a name that a page chooses and sends along, with no password; so this keeps people out of each other's way,
and is no protection. A run of nobody (trained before there were profiles, or queued by a program) is everybody's, and a
run that two profiles trained is both's, because it is the same run.

What cannot be kept apart: ComfyUI's websocket does not say whose page it leads to, so ``darkroom.run`` goes to every
page, which listens to what is of its own workflow; and a picture that a page shows (``<img>``) is asked for without a
header, hence as by nobody, by whoever knows the run's id.
"""

from __future__ import annotations

from pathlib import Path

from ..trainer.files import read_json, write_json

FILE = "owners.json"


def of(folder: Path) -> list[str]:
    """The profiles that trained a run."""
    found = read_json(folder / FILE).get("users")
    return [user for user in found if isinstance(user, str)] if isinstance(found, list) else []


def add(folder: Path, user: str) -> None:
    """A profile trains a run. Args: folder: the run's. user: empty where there are no profiles."""
    if user and user not in (there := of(folder)):
        write_json(folder / FILE, {"users": [*there, user]})


def leave(folder: Path, user: str) -> bool:
    """A profile gives a run up. Returns whether others still have it."""
    others = [one for one in of(folder) if one != user]
    if user and others:
        write_json(folder / FILE, {"users": others})
        return True
    return False


def sees(folder: Path, user: str) -> bool:
    """Whether a run is in a profile's list."""
    return not user or not (there := of(folder)) or user in there
