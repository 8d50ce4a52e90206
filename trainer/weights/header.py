"""What a base model's files say of themselves: a safetensors file, or a diffusers folder. No weight is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BaseModelError

# The limit of the safetensors library itself: a longer header is no header.
_MAX_HEADER = 100_000_000
AGAIN = "download or copy it again, and compare its size with the source's"
PICKLE = (
    "load it in ComfyUI and save it with the node Save Checkpoint (or get the .safetensors version): a pickle can run "
    "any code when it is opened"
)
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "is a pickle (a PyTorch .ckpt / .pt / .bin file), not a safetensors file", PICKLE),
    (b"\x80\x02", "is a pickle (an old PyTorch .ckpt / .pt / .bin file), not a safetensors file", PICKLE),
    (b"GGUF", "is a GGUF file: its weights are quantised", "train on the safetensors file it was made from"),
    (b"version https://git-lfs", "is only a Git LFS pointer, not the weights", "run 'git lfs pull', or download it"),
    (b"<", "is a web page, not a safetensors file", "download it again: the site sent a page (log in?) instead"),
)
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class TensorInfo:
    """What a safetensors header says of one tensor.

    Args:
        dtype: in safetensors' names, such as F16.
        shape: as in torch.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What can be known of a base model without reading a weight.

    Args:
        path: the file, or the diffusers folder.
        tensors: of a file: by their names in it; of a folder: as ``<component>/<name>``, such as
            ``unet/conv_in.weight``.
        files: which file holds a tensor.
        metadata: the free text of a file's header; empty for a folder.
        configs: of a folder: each component's ``config.json``, and ``model_index``; empty for a file.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, Path]
    metadata: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        """A diffusers folder, not a single file."""
        return bool(self.configs)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None if there is none of this name."""
        info = self.tensors.get(name)
        return info.shape if info else None


def read_header(path: Path) -> Header:
    """What a single file, or a diffusers folder, says of itself. Reads no weight.

    Raises:
        BaseModelError: it is missing, empty, cut off, a pickle, or neither safetensors nor a diffusers folder.
    """
    if path.is_dir():
        return _read_folder(path)
    tensors, metadata = _read_file(path)
    return Header(path, tensors, dict.fromkeys(tensors, path), metadata)


def _read_file(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of a safetensors file; see https://github.com/huggingface/safetensors#format."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
            for magic, what, cure in _STARTS:
                if start.startswith(magic):
                    raise BaseModelError(f"{path} {what}", cure)
            if path.suffix.lower() in PICKLES:
                raise BaseModelError(f"{path} is a pickle by its name, not a safetensors file", PICKLE)
            if size == 0:
                raise BaseModelError(f"{path} is empty (0 bytes)", AGAIN)
            if not 2 <= length <= _MAX_HEADER or start[8:9] != b"{":
                raise BaseModelError(f"{path} is not a safetensors file", "choose a .safetensors checkpoint")
            if 8 + length > size:
                raise BaseModelError(f"{path} is cut off within its header ({size:,} bytes)", AGAIN)
            file.seek(8)
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        tensors = {name: TensorInfo(str(t["dtype"]), tuple(t["shape"])) for name, t in header.items()}
        expected = 8 + length + max((int(t["data_offsets"][1]) for t in header.values()), default=0)
    except FileNotFoundError as error:
        cure = "check the path; on Windows also the drive" if path.name else "give the path of a checkpoint"
        raise BaseModelError(f"{path} does not exist", cure) from error
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise BaseModelError(f"{path} has a broken safetensors header", AGAIN) from error
    if size < expected:
        raise BaseModelError(f"{path} is cut off: {size:,} bytes, its header speaks of {expected:,}", AGAIN)
    if size > expected:
        raise BaseModelError(f"{path} has {size - expected:,} bytes more than its header speaks of", AGAIN)
    return tensors, metadata


def _read_folder(path: Path) -> Header:
    index = path / "model_index.json"
    if not index.is_file():
        inside = sorted(path.glob("*.safetensors"))
        cure = f"did you mean {inside[0]}?" if inside else "name a .safetensors file, or the folder that has one"
        raise BaseModelError(f"{path} is a folder without model_index.json, so no diffusers model", cure)
    configs = {"model_index": read_json(index)}
    tensors: dict[str, TensorInfo] = {}
    files: dict[str, Path] = {}
    for component in _COMPONENTS:
        folder = path / component
        if not (folder / "config.json").is_file():
            continue
        configs[component] = read_json(folder / "config.json")
        for file in _component_files(folder):
            inside, _ = _read_file(file)
            tensors |= {f"{component}/{name}": info for name, info in inside.items()}
            files |= dict.fromkeys((f"{component}/{name}" for name in inside), file)
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        configs["scheduler"] = read_json(scheduler)
    return Header(path, tensors, files, {}, configs)


def _component_files(folder: Path) -> list[Path]:
    """The safetensors files of one variant: the plain one, else fp16, else bf16, else another."""
    stem = next((s for s in ("diffusion_pytorch_model", "model") if any(folder.glob(f"{s}*"))), None)
    found = sorted(folder.glob(f"{stem}*.safetensors")) if stem else []
    if not found:
        pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICKLES)
        if pickles:
            raise BaseModelError(f"{folder} holds its weights only as a pickle ({pickles[0].name})", PICKLE)
        raise BaseModelError(f"{folder} holds no weights", AGAIN)
    variants: dict[str, list[Path]] = {}
    for file in found:
        mark = file.name.removeprefix(stem or "").removesuffix(".safetensors").split("-")[0]
        variants.setdefault(mark, []).append(file)
    best = next((v for v in ("", ".fp16", ".bf16") if v in variants), min(variants))
    return variants[best]


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        BaseModelError: it cannot be read, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} cannot be read as JSON: {error}", AGAIN) from error
    if not isinstance(data, dict):
        raise BaseModelError(f"{path} holds no JSON object", AGAIN)
    return data
