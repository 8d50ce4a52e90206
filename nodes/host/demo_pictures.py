"""The demo's data set: 12 pictures in a style that the demo base does not know, drawn when first needed."""

from __future__ import annotations

from pathlib import Path

from ...trainer.demo import world
from . import places

NAME, BARE = "darkroom_demo", "darkroom_demo_bare"


def folder(*, captions: bool = True) -> Path:
    """The folder below ComfyUI's input, with its pictures, and captions or none; what is missing is drawn."""
    root = places.input_root() / (NAME if captions else BARE)
    world.write_dataset(root, captions=captions)
    return root
