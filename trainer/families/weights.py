"""Reading base models: what a safetensors file or a diffusers folder holds, and its weights, offline and strictly."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError
from . import quantised
from .base import Header, TensorInfo

# The limit of the safetensors library itself: a longer header is no header.
_MAX_HEADER = 100_000_000
_AGAIN = "download or copy it again, and compare its size with the source's"
_PICKLE = (
    "load it in ComfyUI and save it with the node Save Checkpoint (or get the .safetensors version): a pickle can run "
    "any code when it is opened"
)
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "is a pickle (a PyTorch .ckpt / .pt / .bin file), not a safetensors file", _PICKLE),
    (b"\x80\x02", "is a pickle (an old PyTorch .ckpt / .pt / .bin file), not a safetensors file", _PICKLE),
    (b"GGUF", "is a GGUF file: its weights are quantised", "train on the safetensors file it was made from"),
    (b"version https://git-lfs", "is only a Git LFS pointer, not the weights", "run 'git lfs pull', or download it"),
    (b"<", "is a web page, not a safetensors file", "download it again: the site sent a page (log in?) instead"),
)
_PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def read_header(path: Path) -> Header:
    """What a single file, or a diffusers folder, says of itself. Reads no weight.

    Raises:
        BaseModelError: it is missing, empty, cut off, a pickle, or neither safetensors nor a diffusers folder.
    """
    if path.is_dir():
        return _read_folder(path)
    tensors, metadata = _read_file(path)
    return Header(path, tensors, dict.fromkeys(tensors, path), metadata)


def read_tensors(header: Header, prefix: str, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names, on the CPU; fp8 as what it stands for.

    Args:
        header: where they are.
        prefix: may be empty.
        dtype: what floating-point tensors are converted to; None leaves them.

    Raises:
        BaseModelError: a file cannot be read.
    """
    names = [name for name in header.files if name.startswith(prefix) and not quantised.is_note(name)]
    scaled = {name: scale for name in names if (scale := quantised.scale_of(header, name)) is not None}
    scales = dict(_raw(header, set(scaled.values())))
    result: dict[str, torch.Tensor] = {}
    for name, tensor in _raw(header, names):
        if name in scaled:
            tensor = tensor.float() * scales[scaled[name]].float()
        wanted = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        # A copy, though the file could stay mapped: mapped weights lie at odd addresses, on which the last bit of a
        # matrix product depends, and they keep the file from being replaced on Windows.
        result[name[len(prefix) :]] = tensor.to(wanted, copy=True)
    return result


def _raw(header: Header, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors as they are stored, mapped; one file after the other."""
    from safetensors import SafetensorError, safe_open

    wanted: dict[Path, list[str]] = {}
    for name in names:
        wanted.setdefault(header.files[name], []).append(name)
    for file, inside in wanted.items():
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                for name in inside:
                    yield name, opened.get_tensor(name.split("/", 1)[1] if header.is_folder else name)
        except (OSError, SafetensorError) as error:
            raise BaseModelError(f"{file} cannot be read: {error}", _AGAIN) from error


@contextmanager
def empty_weights() -> Iterator[None]:
    """Models made within it hold no weights, so nothing is drawn or allocated that ``fill`` would overwrite."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        yield


def fill(model: nn.Module, state: Mapping[str, torch.Tensor], part: str, path: Path) -> nn.Module:
    """Puts weights into a model, each of them; freezes it, in eval mode.

    Args:
        model: made under ``empty_weights``.
        state: by the model's own names.
        part: what the model is, for the message.
        path: where the weights came from, for the message.

    Raises:
        BaseModelError: a weight is missing, too many, or of another shape.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [n for n in own if n in state and tuple(state[n].shape) != own[n]]
    cure = "the file is damaged, or a variant that is not supported: use an unmodified checkpoint"
    if missing:
        raise BaseModelError(f"{path}: its {part} lacks {_some(missing, 'weight')}", cure)
    if shapes:
        name = shapes[0]
        raise BaseModelError(
            f"{path}: in its {part} the shape of {_some(shapes, 'weight')} differs: {list(state[name].shape)}, "
            f"expected {list(own[name])}",
            cure,
        )
    if extra:
        raise BaseModelError(f"{path}: its {part} has {_some(extra, 'weight')} more than the architecture", cure)
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model.requires_grad_(False).eval()


def variant(header: Header, component: str) -> str | None:
    """Which variant of a component's files a folder's header speaks of: None for the plain one, else such as fp16."""
    name = next(file.name for key, file in header.files.items() if key.startswith(f"{component}/"))
    middle = name.split(".")[1:-1]
    return middle[0].split("-")[0] if middle else None


def _some(names: Sequence[str], what: str) -> str:
    return f"1 {what} ({names[0]})" if len(names) == 1 else f"{len(names)} {what}s (such as {names[0]})"


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
            if path.suffix.lower() in _PICKLES:
                raise BaseModelError(f"{path} is a pickle by its name, not a safetensors file", _PICKLE)
            if size == 0:
                raise BaseModelError(f"{path} is empty (0 bytes)", _AGAIN)
            if not 2 <= length <= _MAX_HEADER or start[8:9] != b"{":
                raise BaseModelError(f"{path} is not a safetensors file", "choose a .safetensors checkpoint")
            if 8 + length > size:
                raise BaseModelError(f"{path} is cut off within its header ({size:,} bytes)", _AGAIN)
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
        raise BaseModelError(f"{path} has a broken safetensors header", _AGAIN) from error
    if size < expected:
        raise BaseModelError(f"{path} is cut off: {size:,} bytes, its header speaks of {expected:,}", _AGAIN)
    if size > expected:
        raise BaseModelError(f"{path} has {size - expected:,} bytes more than its header speaks of", _AGAIN)
    return tensors, metadata


def _read_folder(path: Path) -> Header:
    index = path / "model_index.json"
    if not index.is_file():
        inside = sorted(path.glob("*.safetensors"))
        cure = f"did you mean {inside[0]}?" if inside else "name a .safetensors file, or the folder that has one"
        raise BaseModelError(f"{path} is a folder without model_index.json, so no diffusers model", cure)
    configs = {"model_index": _read_json(index)}
    tensors: dict[str, TensorInfo] = {}
    files: dict[str, Path] = {}
    for component in _COMPONENTS:
        folder = path / component
        if not (folder / "config.json").is_file():
            continue
        configs[component] = _read_json(folder / "config.json")
        for file in _component_files(folder):
            inside, _ = _read_file(file)
            tensors |= {f"{component}/{name}": info for name, info in inside.items()}
            files |= dict.fromkeys((f"{component}/{name}" for name in inside), file)
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        configs["scheduler"] = _read_json(scheduler)
    return Header(path, tensors, files, {}, configs)


def _component_files(folder: Path) -> list[Path]:
    """The safetensors files of one variant: the plain one, else fp16, else bf16, else another."""
    stem = next((s for s in ("diffusion_pytorch_model", "model") if any(folder.glob(f"{s}*"))), None)
    found = sorted(folder.glob(f"{stem}*.safetensors")) if stem else []
    if not found:
        pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
        if pickles:
            raise BaseModelError(f"{folder} holds its weights only as a pickle ({pickles[0].name})", _PICKLE)
        raise BaseModelError(f"{folder} holds no weights", _AGAIN)
    variants: dict[str, list[Path]] = {}
    for file in found:
        mark = file.name.removeprefix(stem or "").removesuffix(".safetensors").split("-")[0]
        variants.setdefault(mark, []).append(file)
    best = next((v for v in ("", ".fp16", ".bf16") if v in variants), min(variants))
    return variants[best]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} cannot be read as JSON: {error}", _AGAIN) from error
    if not isinstance(data, dict):
        raise BaseModelError(f"{path} holds no JSON object", _AGAIN)
    return data
