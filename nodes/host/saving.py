"""LoRA files of a ComfyUI: written beside the others and never over one, at once in every list."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import SafetensorError, safe_open

from ...trainer import export
from ...trainer.errors import HostError
from ...trainer.files import write_bytes
from . import graph, places
from .lora import LoraModel

MOST_NUMBERS = 10_000
OURS = ("Software", "LoRA Darkroom")  # in a preview's header
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')


def save(lora: Mapping[str, torch.Tensor], filename: str, samples: torch.Tensor | None) -> str:
    """Write a LORA_MODEL below the first loras folder; returns its name in ComfyUI's lists.

    The same LoRA under the same name is not written twice.

    Args:
        lora: the tensors; a LoraModel brings its header along.
        filename: without ending; may name a subfolder.
        samples: [N, H, W, 3] in 0..1; the first becomes ``<name>.preview.png``.

    Raises:
        HostError: the name cannot be used.
        ExportError: the LoRA is not finite or changes nothing, or cannot be written.
    """
    wanted = _clean(filename)
    folder = places.new_lora_folder(str(wanted.parent))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in lora.items()}
    target = _free_or_same(folder, wanted.name, tensors)
    if not target.exists():
        header = dict(getattr(lora, "metadata", {}))
        if header:
            header.update({"ss_output_name": target.stem, "modelspec.title": target.stem})
        if isinstance(lora, LoraModel):
            export.write(target, tensors, header)
        else:
            export.store(target, tensors)  # of another trainer, of whatever kind and naming
        places.forget_lora_list()
    if samples is not None and len(samples):
        _write_preview(target.with_suffix(".preview.png"), samples[0])
    name = places.lora_name(target)
    graph.tell_page("loras", {"name": name})
    return name


def _clean(filename: str) -> PurePosixPath:
    text = filename.strip().replace("\\", "/").removesuffix(".safetensors").strip("/ ")
    path = PurePosixPath(text)
    if not text or FORBIDDEN.search(text) or any(part in ("..", ".") for part in path.parts):
        raise HostError(f"filename: {filename!r} is no name for a file", "give a name such as my_style_lora")
    return path


def _free_or_same(folder: Path, stem: str, tensors: dict[str, torch.Tensor]) -> Path:
    """The first name that is free, or whose file holds these very tensors."""
    for number in range(1, MOST_NUMBERS):
        path = folder / (f"{stem}.safetensors" if number == 1 else f"{stem}_{number:03}.safetensors")
        if not path.exists() or _holds(path, tensors):
            return path
    raise HostError(f"filename: {stem} has been used {MOST_NUMBERS} times", "give another name")


def _holds(path: Path, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether a file holds these tensors; it is read only as far as they are the same."""
    try:
        with safe_open(str(path), framework="pt") as there:
            if set(there.keys()) != tensors.keys():
                return False
            return all(_same(there.get_tensor(name), tensor) for name, tensor in tensors.items())
    except (OSError, SafetensorError):
        return False


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _write_preview(path: Path, picture: torch.Tensor) -> None:
    """A preview beside the file; one that is not of this node stays."""
    if path.exists() and not _is_ours(path):
        return
    pixels = picture.detach().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    note, data = PngInfo(), io.BytesIO()
    note.add_text(*OURS)
    Image.fromarray(pixels).save(data, "PNG", pnginfo=note)
    write_bytes(path, data.getvalue())


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as there:
            return there.info.get(OURS[0]) == OURS[1]
    except OSError:
        return False
