"""What an older ComfyUI lacks of what the nodes use; in a current one nothing here does anything.

`requires-comfyui` in pyproject.toml is the oldest in which this is enough; ``tests/host/install.py`` tries it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyAPISync, io

# Keywords that say how a node is shown or found, never what it does, and the ComfyUI that brought them.
OF_SCHEMAS = {"search_aliases": "0.11", "has_intermediate_output": "0.19"}
OF_INPUTS = {"advanced": "0.10"}
OF_COMBOS = {"extra_dict": "0.7"}


def accept_later_keywords(io: Any = io) -> int:
    """Let ComfyUI's schemas and inputs take, and leave out, the later keywords that they do not know.

    Args:
        io: ``comfy_api.latest.io``.

    Returns:
        How many classes had to be changed: 0 in a current ComfyUI.
    """
    inputs = [inner for name in dir(io) if isinstance(inner := getattr(getattr(io, name), "Input", None), type)]
    owners = {_owner(io.Schema): OF_SCHEMAS, **{_owner(cls): OF_INPUTS for cls in inputs}}
    owners[_owner(io.Combo.Input)] = OF_INPUTS | OF_COMBOS
    return sum(_teach(owner, keywords) for owner, keywords in owners.items())


def progress_setter() -> Callable[[float, float, str, Any], None]:
    """A function (value, total, node id, PIL picture or None) that moves a node's bar."""
    api = ComfyAPISync()
    return api.execution.set_progress if hasattr(api, "execution") else _set_progress  # there from ComfyUI 0.3.72 on


def _set_progress(value: float, total: float, node: str, picture: Any) -> None:
    from comfy.cli_args import args
    from comfy_execution.progress import get_progress_state

    image = None if picture is None else ("JPEG", picture, args.preview_size)
    get_progress_state().update_progress(node, value, total, image)


def system_user_directory(name: str) -> str:
    """The folder ``__<name>`` among the users' folders (from ComfyUI 0.3.76 on a function of its own)."""
    own = getattr(folder_paths, "get_system_user_directory", None)
    return own(name) if own is not None else str(Path(folder_paths.get_user_directory()) / f"__{name}")


def is_within_directory(directory: str, path: str) -> bool:
    """Whether a path lies in a folder, or is it, wherever links lead (ComfyUI has such a function from 0.28 on).

    By its letters first: asking the system for a path of another machine (``\\\\server\\share``) already speaks to it.
    """
    real = os.path.realpath(directory)
    if not any(_below(base, os.path.abspath(path)) for base in (os.path.abspath(directory), real)):
        return False
    return _below(real, os.path.realpath(path))


def _below(root: str, path: str) -> bool:
    try:
        return os.path.commonpath((root, path)) == os.path.normpath(root)
    except ValueError:  # another drive
        return False


def _owner(cls: type) -> type:
    """The class whose ``__init__`` makes a class's instances."""
    return next(c for c in cls.__mro__ if "__init__" in vars(c))


def _teach(owner: type, keywords: Iterable[str]) -> bool:
    known = inspect.signature(owner.__init__).parameters
    missing = frozenset(keywords) - known.keys()
    if not missing or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return False
    owner.__init__ = _without(owner.__init__, missing)
    return True


def _without(init: Callable[..., None], names: frozenset[str]) -> Callable[..., None]:
    @wraps(init)
    def taking(self: Any, *args: Any, **keywords: Any) -> None:
        later = {name: keywords.pop(name) for name in names & keywords.keys()}
        later |= later.pop("extra_dict", None) or {}
        init(self, *args, **keywords)
        if hasattr(
            self, "extra_dict"
        ):  # an input's: what it says goes to the page as it is, where our own scripts look
            self.extra_dict.update(later)

    return taking
