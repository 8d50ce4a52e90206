"""How numbers and values are written in advice."""

from __future__ import annotations

import re
from typing import Any


def shown(value: Any) -> str:
    """A value as people write it in a config."""
    if value is None:
        return "as the rank"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"\.?0*e-0*", "e-", f"{value:.1e}") if 0 < value < 0.01 else f"{value:.3g}"
    return str(value)


def count(number: int, what: str) -> str:
    """``1 picture``, or ``2 pictures``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
