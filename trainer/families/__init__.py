"""Model families, one file each; a file with a module-level ``FAMILY`` is found by itself.

To add a family, add a file: fulfil ``base.Family``, and the contract tests pick it up. Families never import each
other; what they share lies in this package's other files.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from ..weights import Header, TensorInfo
from .base import Encoders, Family

__all__ = ["Encoders", "Family", "Header", "TensorInfo", "all_families", "detect", "get", "prediction", "size"]


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
        BaseModelError: it is missing, broken, of no family, or of a kind that cannot be trained; the message says what
            it is instead.
    """
    return _known(path)[0]


def prediction(path: Path | str) -> tuple[str, bool]:
    """What a base model predicts, and whether with zero terminal SNR; see ``Family.prediction``.

    Raises:
        BaseModelError: as ``detect``.
    """
    family, header = _known(path)
    return family.prediction(header)


def size(path: Path | str) -> int:
    """How many numbers the denoiser in a file or folder has; 0 where there is none. Only headers are read.

    Raises:
        BaseModelError: it is missing or broken.
    """
    from ..weights import read_header
    from .kinds import unet_traits

    header = read_header(Path(path))
    traits = unet_traits(header)
    if traits is None:
        return 0
    return sum(prod(info.shape) for name, info in header.tensors.items() if name.startswith(traits.prefix))


def _known(path: Path | str) -> tuple[Family, Header]:
    from ..weights import read_header
    from ..weights.quantised import check
    from .kinds import refusal

    header = read_header(Path(path))
    for family in all_families():
        if family.recognise(header):
            family.prediction(header)
            check(header)
            return family, header
    raise refusal(header, [family.title for family in all_families()])
