"""Runs as things on a shelf: how much room one takes, and taking it away. Knows nothing of ComfyUI."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from ..trainer import runstate
from ..trainer.errors import HostError, RunFolderError
from ..trainer.files import replace
from ..trainer.lock import locked
from . import runs

_LOCKS = ("host.lock", "run.lock")  # of a ComfyUI that encodes for a run, and of whoever trains it


def size(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and what vanishes meanwhile counts nothing."""
    total, left = 0, [folder]
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def delete(root: Path, run: str, waiting: Collection[str] = ()) -> int:
    """Delete a run's folder: checkpoints, samples, its LoRAs. What was saved elsewhere, other runs and the cache stay.

    First it is moved out of the list in one go, so that nobody meets half a run.

    Args:
        root: the folder of all runs.
        run: the folder's name, wholly; a mere beginning could be another one's tomorrow.
        waiting: ids of the runs that are queued.

    Returns:
        The bytes that this frees.

    Raises:
        HostError: there is no such run, it is being trained, or it is queued.
    """
    # Compared with what is there, and never made into a path.
    folder = next((path for path in _folders(root) if path.name == run), None)
    if folder is None:
        raise HostError(f"there is no run {run[:80]}", "it may have been deleted already: reload the list")
    name = runs.label(runstate.state(folder))
    if run in waiting:
        raise HostError(f"the run {name} waits in the queue", "take it out of the queue first")
    try:
        for lock in _LOCKS:
            with locked(folder, lock):
                pass  # held no longer than to look: Windows moves no folder with an open file in it
    except RunFolderError:
        raise HostError(f"the run {name} is being trained", "stop it first") from None
    freed, bin_ = size(folder), root.parent / "deleted"
    bin_.mkdir(exist_ok=True)
    try:
        replace(folder, bin_ / f"{run}-{secrets.token_hex(4)}")
    except OSError as error:
        raise HostError(
            f"the run {name} cannot be deleted: {error.strerror}", "close what has its files open"
        ) from None
    for left in bin_.iterdir():  # also what a former try had to leave
        shutil.rmtree(left, ignore_errors=True)
    return freed


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if (path / "job.yaml").is_file()] if root.is_dir() else []
