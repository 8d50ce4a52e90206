"""TOML, by Python's own reader."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..errors import ConfigError


def loads(text: str, source: str) -> dict[str, Any]:
    """The data of a TOML text.

    Raises:
        ConfigError: it is no TOML, or this Python has no reader for it.
    """
    try:
        reader = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise ConfigError(["Python 3.10 needs a package to read TOML: tomli, of requirements.txt"], source) from None
    try:
        return reader.loads(text)
    except reader.TOMLDecodeError as error:
        raise ConfigError([f"not TOML: {error}"], source) from None
