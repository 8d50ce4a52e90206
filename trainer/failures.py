"""What a worker says last of what it could not do: of a mistake, of memory that is out, of a disk, of a fault."""

from __future__ import annotations

import traceback
from pathlib import Path

from . import memory
from .errors import DarkroomError, UserError
from .events import RunFailed


def failed(error: BaseException, folder: Path, lighter: str) -> RunFailed:
    """The terminal event of an exception.

    Args:
        error: what ended the work.
        folder: where it was done, for errors of a disk that name no file.
        lighter: what would need less memory, such as ``a lower resolution``.
    """
    if isinstance(error, DarkroomError):
        return RunFailed(error.message, error.cure, isinstance(error, UserError))
    if memory.ran_out(error):
        message, cure = f"out of memory: {error}", f"close whatever else takes memory; {lighter} helps too"
    elif isinstance(error, OSError) and error.strerror:
        message, cure = f"{error.filename or folder}: {error.strerror}", "check the disk"
    else:
        message, cure = f"{type(error).__name__}: {error}", "see the log"
    return RunFailed(message, cure, False, "".join(traceback.format_exception(error)))
