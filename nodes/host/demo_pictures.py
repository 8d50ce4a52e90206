"""The demo's data set: 12 captioned pictures in a style that the demo base does not know, drawn when first needed."""

from __future__ import annotations

from pathlib import Path

from ...trainer.demo import world
from . import places

NAME = "darkroom_demo"


def folder() -> Path:
    """The folder below ComfyUI's input, with its pictures and captions; what is missing is drawn."""
    root = places.input_root() / NAME
    world.write_dataset(root)
    return root
