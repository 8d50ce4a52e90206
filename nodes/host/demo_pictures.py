"""The demo's data sets: 12 pictures in a style that the demo base does not know, a sailor's answers, and prompts."""

from __future__ import annotations

from pathlib import Path

from ...trainer.demo import SAILOR, WISHES, world
from ...trainer.files import write_bytes
from . import places

NAME, BARE = "darkroom_demo", "darkroom_demo_bare"
TEXTS = {"darkroom_demo_answers": SAILOR, "darkroom_demo_wishes": WISHES}
"""Folder below ComfyUI's input: the text in it."""


def folder(*, captions: bool = True) -> Path:
    """The folder below ComfyUI's input, with its pictures, and captions or none; what is missing is drawn."""
    root = places.input_root() / (NAME if captions else BARE)
    world.write_dataset(root, captions=captions)
    return root


def texts(name: str) -> Path:
    """One of ``TEXTS`` below ComfyUI's input, written when it is missing."""
    file = places.input_root() / name / TEXTS[name].name
    if not file.is_file():
        write_bytes(file, TEXTS[name].read_bytes())
    return file.parent
