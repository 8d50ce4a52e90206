"""Folders with names that break other programs, and pictures that are worth looking at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with blanks, Chinese and an umlaut in its path."""
    path = tmp_path / "my \u56fe\u7247" / "f\u00fcr training"
    path.mkdir(parents=True)
    return path


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture without structure: damaged anywhere, it is another one."""
    rng = np.random.default_rng((width, height, seed))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def draw(folder: Path) -> Callable[..., Path]:
    """Saves a picture in the folder: ``draw("a.png", width=100, height=80, seed=0, **save_options)``."""

    def save(name: str, width: int = 100, height: int = 80, seed: int = 0, **options: Any) -> Path:
        path = folder / name
        noise(width, height, seed).save(path, **options)
        return path

    return save
