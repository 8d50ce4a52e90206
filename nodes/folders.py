"""Folders for the page: a new one for files that are dropped on a node, and one that is opened on the desktop."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ..trainer.errors import HostError
from .asked import Asked, Name, Typed
from .dataset import chosen
from .host import places

LONGEST = 80  # with the names of files below it, paths stay within what Windows takes
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_TRIES = 10_000


class New(Asked):
    """A name for a folder; empty: the day's."""

    name: Name = ""


class Empty(Asked):
    """A folder that ``new`` made."""

    folder: Name


class Shown(Asked):
    """A folder, as Load Dataset names it."""

    folder: Typed = ""
    path: Typed = ""


def new(asked: New) -> dict[str, str]:
    """Make a folder below ComfyUI's input that is nobody's yet, named after ``name`` or the day.

    Returns:
        ``folder``: its name below the input.

    Raises:
        HostError: it cannot be made.
    """
    day = f"dataset-{datetime.date.today().isoformat()}"
    wanted = clean(asked.name)
    names = (f"{wanted}-{n}" if n > 1 else wanted for n in range(1, _TRIES)) if wanted else None
    for name in names or (f"{day}-{n}" for n in range(1, _TRIES)):
        folder = places.input_root() / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise HostError(f"{folder}: cannot be made: {error.strerror or error}") from None
        return {"folder": name}
    raise HostError(f"{places.input_root()}: there are {_TRIES} folders of that name", "give another name")


def clean(name: str) -> str:
    """A name that every system takes for a folder, and that the list of folders does not pass over; may be empty."""
    kept = _FORBIDDEN.sub(" ", name)
    kept = " ".join(kept.split())[:LONGEST].strip(" .").lstrip("_")
    return f"{kept} dataset" if _RESERVED.fullmatch(kept) else kept


def discard(asked: Empty) -> dict[str, str]:
    """Remove a folder that ``new`` made and into which nothing came; one with files in it stays.

    Raises:
        HostError: it is no folder of the input.
    """
    name = asked.folder
    if not name or name != clean(name):
        raise HostError(f"folder: {name} is no name of a new folder")
    try:
        (places.input_root() / name).rmdir()
    except OSError:
        return {"folder": name}
    return {"folder": ""}


def show(asked: Shown) -> dict[str, str]:
    """Open the folder that ``folder`` and ``path`` name, in the system's file manager.

    Raises:
        HostError: there is no such folder, or no file manager.
    """
    folder = chosen(asked.folder, asked.path).absolute()
    _open(folder)
    return {"opened": str(folder)}


def _open(folder: Path) -> None:
    if sys.platform == "win32":
        os.startfile(folder)
        return
    program = "open" if sys.platform == "darwin" else "xdg-open"
    desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    found = shutil.which(program)
    if not found or not desktop:
        why = f"{program} is not there" if desktop else "ComfyUI runs without a desktop"
        raise HostError(f"{folder}: it cannot be opened: {why}", "open it by hand")
    subprocess.Popen(
        [found, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
