"""Kinds of values that the fields of a config have, beside pydantic's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

# White space, and the quotes that Windows' "Copy as path" puts around.
_AROUND_A_PATH = re.compile(r'^[\s"]+|[\s"]+$')


def as_path(value: Any) -> Any:
    """A path as people type it: quotes around it and a ``~`` are understood."""
    if not isinstance(value, str):
        return value
    text = _AROUND_A_PATH.sub("", value)
    if not text:
        raise ValueError("expected a path, got an empty text")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path, got {value!r}, and there is no such user") from None


def named(path: Path) -> Path:
    """A path whose last part is a name."""
    # The last part is the LoRA's name: `/` and `..` have none.
    if path.absolute().name in ("", ".."):
        raise ValueError(f"expected a folder whose last part can name the LoRA, got {str(path)!r}")
    return path


def yes_no(value: Any) -> Any:
    """A bare ``no``, which YAML 1.1 reads as False: the user meant the word."""
    return "no" if value is False else value


def warmup(value: Any) -> Any:
    """A number of steps, or ``auto``."""
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000):
        raise ValueError(f"expected a whole number from 0 to 1000000, or auto, got {value!r} (default 100)")
    return value


def argument(value: Any) -> Any:
    """A setting of an optimizer: a plain value, or a list of numbers."""
    if isinstance(value, (list, tuple)) and value and all(type(one) in (int, float) for one in value):
        return list(value)
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"expected a number, true, false, a text or a list of numbers, got {value!r}")
    return value


def factor(value: int) -> int:
    """LoKr's factor: not 0."""
    if value == 0:
        raise ValueError("expected -1, or 1 to 1024, got 0 (default -1)")
    return value


FilePath = Annotated[Path, BeforeValidator(as_path)]


def field(default: Any, description: str, *, identity: bool = True, **bounds: Any) -> Any:
    """A documented field. ``identity=False``: it does not shape the trajectory, so it is not in the run's identity."""
    return Field(default, description=description, json_schema_extra={"identity": identity}, **bounds)
