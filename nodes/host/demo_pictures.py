"""The demo's data set: 12 captioned pictures in a style that the demo base does not know, drawn when first needed."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...trainer.demo import world

NAME = "darkroom_demo"
COUNT = 12


def folder() -> Path:
    """The folder below ComfyUI's input, with its pictures; what is missing is drawn."""
    root = Path(folder_paths.get_input_directory()) / NAME
    root.mkdir(parents=True, exist_ok=True)
    for index in range(COUNT):
        picture, caption = root / f"{index + 1:02}.png", root / f"{index + 1:02}.txt"
        if picture.exists():
            continue
        drawing = world.draw(index, style=world.UNKNOWN_STYLE)
        caption.write_text(f"{drawing.caption}\n", encoding="utf-8")
        drawing.image.save(picture)
    return root
