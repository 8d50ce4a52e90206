"""The demo's data set: 12 captioned pictures in a style that the demo base does not know, drawn when first needed."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...trainer.demo import world

NAME = "darkroom_demo"


def folder() -> Path:
    """The folder below ComfyUI's input, with its pictures and captions; what is missing is drawn."""
    root = Path(folder_paths.get_input_directory()) / NAME
    world.write_dataset(root)
    return root
