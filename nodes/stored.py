"""Pictures that a graph gave, as a data set on disk: a private folder, named by what is in it.

The same pictures and captions are the same folder. The folders are bounded in size; what was used longest ago goes
first. They are never changed: captions that are written for such a data set make another one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..trainer.dataset import fingerprint
from ..trainer.dataset.files import METADATA_NAME
from ..trainer.errors import HostError
from ..trainer.files import digest, trim, write_bytes

MOST_BYTES = 10 * 2**30
IN_USE = 3600.0  # seconds for which a folder that was used stays, whatever its size
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def store(
    root: Path,
    images: Sequence[torch.Tensor],
    texts: Sequence[str] | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes pictures as PNG files, and their captions as a table; what is there already is not written again.

    Args:
        root: where all such folders lie.
        images: IMAGEs [B, H, W, C] in 0..1, of any sizes; C is 1, 3 or 4 (transparency).
        texts: captions: one for each picture, one for all, or None.
        on_progress: called with (pictures written, pictures in all).

    Returns:
        The folder.

    Raises:
        HostError: the pictures cannot be used, or the counts differ.
    """
    pictures = [_bytes(one, number) for number, given in enumerate(images, 1) for one in _batch(given, number)]
    if not pictures:
        raise HostError("images: there is no picture in what is wired", "wire pictures, or choose a folder")
    captions = _captions(texts, len(pictures))
    content = hashlib.sha256()
    for array, caption in zip(pictures, captions, strict=True):
        content.update(f"{array.shape}\0{caption}\0".encode() + array.tobytes())
    folder = root / content.hexdigest()[:32]
    if not folder.is_dir():

        def fill(new: Path) -> None:
            for number, array in enumerate(pictures, 1):
                data = io.BytesIO()
                Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(
                    data, "PNG", compress_level=1
                )
                write_bytes(new / _name(number), data.getvalue())
                if on_progress is not None:
                    on_progress(number, len(pictures))
            if any(captions):
                table = io.StringIO(newline="")
                rows = csv.writer(table, lineterminator="\n")
                rows.writerow(("filename", "prompt"))
                rows.writerows((_name(number), caption) for number, caption in enumerate(captions, 1))
                write_bytes(new / METADATA_NAME, table.getvalue().encode())

        _whole(root, fill, lambda new: folder.name)
    use(folder)
    trim(root, MOST_BYTES, IN_USE)
    return folder


def changed(folder: Path, change: Callable[[Path], None], how: str) -> Path:
    """A copy of a stored folder with other captions, beside it.

    Args:
        folder: stored; it stays as it is.
        change: changes the captions in the folder that it is given. If it raises, the same change goes on there the
            next time.
        how: names the change.

    Returns:
        The folder of the new data set, named by what is in it.
    """

    def fill(new: Path) -> None:
        for file in folder.iterdir():
            if (new / file.name).exists():
                continue
            if file.suffix == ".png":
                _link(file, new / file.name)
            else:
                shutil.copyfile(file, new / file.name)
        change(new)

    target = _whole(folder.parent, fill, lambda new: fingerprint(new)[:32], digest("changed", folder.name, how))
    use(target)
    return target


def use(folder: Path) -> None:
    """Remember that a stored folder is in use now."""
    os.utime(folder)


def _whole(root: Path, fill: Callable[[Path], None], name: Callable[[Path], str], unfinished: str = "") -> Path:
    """A folder that is there with all its files, or not at all; ``name`` tells what it is called once it is filled.

    What is filled is removed when that fails; with ``unfinished``, its name until then, it stays for the next time.
    """
    new = root / f".{unfinished or uuid.uuid4().hex}"
    done = False
    try:
        new.mkdir(parents=True, exist_ok=True)
        fill(new)
        folder = root / name(new)
        if not folder.is_dir():
            os.replace(new, folder)
        done = True
    except OSError as error:
        raise HostError(f"{root}: the pictures cannot be written: {error.strerror or error}") from None
    finally:
        if done or not unfinished:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _link(file: Path, other: Path) -> None:
    try:
        os.link(file, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, other)


def _batch(images: torch.Tensor, number: int) -> torch.Tensor:
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[-1] not in _MODES:
        what = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise HostError(
            f"images: number {number} is {what}, expected [pictures, height, width, channels] with 1, 3 or 4 channels",
            "wire an IMAGE",
        )
    return images


def _bytes(image: torch.Tensor, number: int) -> np.ndarray:
    if not torch.isfinite(image).all():
        raise HostError(f"images: number {number} has values that are no numbers (NaN)", "look at it in a preview")
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _captions(texts: Sequence[str] | None, count: int) -> list[str]:
    given = [] if texts is None else list(texts)
    if not given:
        return [""] * count
    if len(given) not in (1, count):
        raise HostError(
            f"texts: {len(given)} texts and {count} pictures are wired; expected one text for each picture, or one "
            "for all",
            "wire both from the same node",
        )
    return given * count if len(given) == 1 else given


def _name(number: int) -> str:
    return f"{number:06d}.png"
