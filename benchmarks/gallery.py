"""What the gallery of a data set costs: `python -m benchmarks.gallery [IMAGES]`, 5,000 small pictures by default."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.captioning.album import album
from trainer.captioning.editing import Edit, History, Replacement, Shelf
from trainer.dataset import fingerprint
from trainer.dataset.pixels import thumbnail


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Does it, and prints how long that took."""
    begin = time.perf_counter()
    found = work()
    print(f"{what}: {time.perf_counter() - begin:.2f} s")
    return found


def main(images: int) -> None:
    """Makes a folder, and looks at it as the page does."""
    with tempfile.TemporaryDirectory() as name:
        folder, colours = Path(name), np.random.default_rng(0).integers(0, 256, (images, 3), dtype=np.uint8)
        for number, colour in enumerate(colours):
            pixels = np.full((64, 64 + number % 3 * 32, 3), colour, np.uint8)
            Image.fromarray(pixels).save(folder / f"picture {number:05d}.png", compress_level=0)
            caption = f"a small drawing number {number} of a red house with a roof and two windows\n"
            (folder / f"picture {number:05d}.txt").write_text(caption, "utf-8")
        time.sleep(2.1)  # younger files are not remembered
        timed("first look", lambda: album(folder))
        found = timed("after an edit", lambda: album(folder))
        timed("is it as it was", lambda: fingerprint(folder))
        print(f"JSON: {len(json.dumps(found.told)) / 1e6:.2f} MB")
        items = list(found.items.values())[:100]
        timed(f"{len(items)} thumbnails", lambda: [thumbnail(item, 192) for item in items])
        history, one = History(), "picture 00001.png"
        before = Shelf(folder).caption(one)
        edit = Edit(before.texts if before else (), ("another one",))
        timed("a caption saved", lambda: history.do(one, lambda: Shelf(folder).changes({one: edit})))

        def everywhere() -> list[Any]:
            shelf = Shelf(folder)
            return shelf.changes(shelf.replaced(Replacement("red", "blue")))

        timed("replaced in all", lambda: history.do("red", everywhere))
        timed("undone", history.undo)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
