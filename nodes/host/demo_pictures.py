"""The demo's data sets: 12 pictures in a style that the demo base does not know, and 40 answers of a sailor's."""

from __future__ import annotations

from pathlib import Path

from ...trainer.demo import SAILOR, world
from ...trainer.files import write_bytes
from . import places

NAME, BARE, ANSWERS = "darkroom_demo", "darkroom_demo_bare", "darkroom_demo_answers"


def folder(*, captions: bool = True) -> Path:
    """The folder below ComfyUI's input, with its pictures, and captions or none; what is missing is drawn."""
    root = places.input_root() / (NAME if captions else BARE)
    world.write_dataset(root, captions=captions)
    return root


def answers() -> Path:
    """The folder below ComfyUI's input with questions and their answers, written when it is missing."""
    file = places.input_root() / ANSWERS / SAILOR.name
    if not file.is_file():
        write_bytes(file, SAILOR.read_bytes())
    return file.parent
