"""The weights of a base model, offline and strictly: out of its files, and into a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..errors import BaseModelError
from . import quantised
from .header import AGAIN, Header


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
            raise BaseModelError(f"{file} cannot be read: {error}", AGAIN) from error


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
