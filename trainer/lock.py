"""One process at a time in a run folder. The lock is the system's, so it ends with the process, however it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import RunFolderError

_PATIENCE, _PAUSE = 0.5, 0.05  # seconds: whoever only looks whether the folder is held (``held``) is gone by then


@contextmanager
def locked(
    folder: Path, name: str = "run.lock", cure: str = "wait for it, stop it, or give another output_dir"
) -> Iterator[None]:
    """Holds the run folder, which is made when missing.

    Args:
        folder: the run folder.
        name: of the lock's file; ``run.lock`` is for whoever writes the run.
        cure: what the user can do while another process holds it.

    Raises:
        RunFolderError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a")
    except OSError as error:
        raise RunFolderError(
            f"output_dir: {folder} cannot be written: {error.strerror}", "give another output_dir"
        ) from None
    with file:
        deadline = time.monotonic() + _PATIENCE
        while not _taken(file):
            if time.monotonic() > deadline:
                raise RunFolderError(f"another process is training in {folder}", cure)
            time.sleep(_PAUSE)
        yield


def held(folder: Path) -> bool:
    """Whether a process holds the run folder now."""
    try:
        with (folder / "run.lock").open("r+") as file:
            return not _taken(file)
    except OSError:  # there is none yet
        return False


def _taken(file: IO[str]) -> bool:
    try:
        _take(file)
    except OSError:
        return False
    return True


def _take(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
