"""Folders of text, with names that break other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with blanks, Chinese and an umlaut in its path."""
    path = tmp_path / "my \u6587\u672c" / "f\u00fcr training"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def put(folder: Path) -> Callable[[str, str | bytes], Path]:
    """Writes a file below the folder: ``put("10_a/b.jsonl", text)``."""

    def write(name: str, content: str | bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write
