"""One process at a time in a run folder. The lock is the system's, so it ends with the process, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import RunFolderError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run folder, which is made when missing.

    Raises:
        RunFolderError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "run.lock").open("a")
    except OSError as error:
        raise RunFolderError(
            f"output_dir: {folder} cannot be written: {error.strerror}", "give another output_dir"
        ) from None
    with file:
        try:
            _take(file)
        except OSError:
            raise RunFolderError(
                f"another process is training in {folder}", "wait for it, stop it, or give another output_dir"
            ) from None
        yield


def _take(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
