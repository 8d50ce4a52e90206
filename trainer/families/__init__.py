"""Model families, one file each; a file with a module-level ``FAMILY`` is found by itself.

To add a family, add a file: fulfil ``base.Family``, and the contract tests pick it up. Families never import each
other; what they share lies in this package's other files.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from .base import Encoders, Family, Header, TensorInfo

__all__ = ["Encoders", "Family", "Header", "TensorInfo", "all_families", "detect", "get"]


@cache
def all_families() -> tuple[Family, ...]:
    """Every family, by name."""
    found: list[Family] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        family: Any = getattr(importlib.import_module(f".{module.name}", __name__), "FAMILY", None)
        if family is None:
            continue
        if family.name != module.name:
            raise RuntimeError(f"the family in {module.name}.py calls itself {family.name!r}: the names must agree")
        found.append(family)
    return tuple(found)


def get(name: str) -> Family:
    """The family of a name.

    Raises:
        BaseModelError: there is none.
    """
    known = {family.name: family for family in all_families()}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(known)}"
    raise BaseModelError(f"there is no model family {name!r}", hint)


def detect(path: Path | str) -> Family:
    """The family of a base model, from a safetensors header or a diffusers folder; no weight is read.

    Raises:
        BaseModelError: it is missing, broken, or of no family; the message says what it is instead.
    """
    from .kinds import refusal
    from .weights import read_header

    header = read_header(Path(path))
    for family in all_families():
        if family.recognise(header):
            return family
    raise refusal(header, [family.title for family in all_families()])
