"""Finds the captioners: each file of this folder with a ``CAPTIONER``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from pathlib import Path

from ..errors import CaptionError
from .base import Captioner


@lru_cache(maxsize=1)
def all_captioners() -> dict[str, Captioner]:
    """All captioners by name, in alphabetical order."""
    package = __name__.rpartition(".")[0]
    found: dict[str, Captioner] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("_"):
            continue
        captioner = getattr(importlib.import_module(f"{package}.{module.name}"), "CAPTIONER", None)
        if captioner is not None:
            found[captioner.name] = captioner
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """The names of all captioners."""
    return tuple(all_captioners())


def get(name: str) -> Captioner:
    """The captioner of this name.

    Raises:
        CaptionError: there is none.
    """
    try:
        return all_captioners()[name]
    except KeyError:
        raise CaptionError(f"method: expected one of {', '.join(names())}, got {name!r}") from None
