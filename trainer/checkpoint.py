"""Checkpoints that are whole or absent, and all that exact resume needs.

``checkpoints/step-000200/`` holds ``lora.safetensors`` (usable as it is), ``state/`` (fp32 adapter, optimizer,
scaler, position) and, written last, ``complete.json``. A folder without it is not a checkpoint. The newest two keep
their ``state``; of older ones the LoRA stays.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load as deserialised
from safetensors.torch import load_file
from safetensors.torch import save as serialised

from . import export
from .errors import CheckpointError, RunFolderError
from .files import replace, write_json, write_tensors

_T = TypeVar("_T")
FORMAT = 2
KEPT = 2  # with their state, which is several times as large as the LoRA
_TEMPORARY = ".tmp"
_NAME = re.compile(r"step-([0-9]{6,})")


@dataclass
class Position:
    """Where a run is.

    Args:
        step: optimizer steps done.
        cursor: windows gone through; more than ``step`` where steps were skipped.
        skipped: steps skipped in a row, for not being finite.
        total: the run's length, in windows, that the schedule is for.
        extended_at: the step at which the run was last given a new length; 0 if never.
        halved: how often the rate was halved, because losses were not finite.
    """

    step: int = 0
    cursor: int = 0
    skipped: int = 0
    total: int = 0
    extended_at: int = 0
    halved: int = 0


@dataclass
class State:
    """All that a run goes on from.

    Args:
        position: where it is.
        adapter: the trained weights.
        optimizer: the optimizer's tensors.
        numbers: what else the optimizer keeps.
        average: the moving average of the weights; empty without one.
        averaged: steps that are in it.
        scaler: of fp16's gradient scaling; empty without.
        precision: the number format that was trained in.
    """

    position: Position
    adapter: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    numbers: dict[str, Any] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    averaged: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    precision: str = ""


_TENSORS = ("adapter", "optimizer", "average")
_NUMBERS = ("numbers", "averaged", "scaler", "precision")


def folder_of(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:06d}"


def lora(run: Path, step: int) -> Path:
    """The LoRA file of a step's checkpoint."""
    return folder_of(run, step) / "lora.safetensors"


def save(run: Path, state: State, lora: dict[str, torch.Tensor], header: dict[str, str]) -> Path:
    """Writes a checkpoint: under a temporary name, read back, renamed, marked complete last.

    Raises:
        CheckpointError: it is not finite, cannot be written, or reads back differently.
        ExportError: the LoRA is not finite or without effect.
    """
    for part in _TENSORS:
        for name, tensor in getattr(state, part).items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(
                    f"the state of the training is not finite ({name}); it is not saved", "lower learning_rate"
                )
    final = folder_of(run, state.position.step)
    temporary, former = (final.with_name(f".{secrets.token_hex(6)}{_TEMPORARY}") for _ in range(2))
    try:
        for left in final.parent.glob(f".*{_TEMPORARY}"):  # by a process that was killed; the folder is locked
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        export.write(temporary / "lora.safetensors", lora, header)
        for name in _TENSORS:
            write_tensors(temporary / "state" / f"{name}.safetensors", getattr(state, name))
        rest = {name: getattr(state, name) for name in _NUMBERS}
        write_json(
            temporary / "state" / "position.json", {"format": FORMAT, "position": asdict(state.position), **rest}
        )
        _compare(_read(temporary), state)
        if final.exists():  # an unfinished one, or the same step done again after a crash
            replace(final, former)
        replace(temporary, final)
        write_json(final / "complete.json", {"format": FORMAT, "step": state.position.step})
        _prune(run, state.position.step)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {error.strerror or error}",
            "free some space; the last complete checkpoint is whole, and the run resumes from it",
        ) from None
    finally:
        if former.exists() and not final.exists():
            replace(former, final)
        for folder in (temporary, former):
            shutil.rmtree(folder, ignore_errors=True)
    return final


def complete(run: Path) -> list[int]:
    """Steps of the complete checkpoints, in order. A user's copies (``step-000200 good``) are passed over."""
    names = (path.parent.name for path in (run / "checkpoints").glob("step-*/complete.json"))
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)


def latest(run: Path) -> int | None:
    """Step of the last complete checkpoint."""
    steps = complete(run)
    return steps[-1] if steps else None


def load(run: Path, step: int) -> State:
    """Reads a checkpoint.

    Raises:
        CheckpointError: it is broken, or an older one whose state is not kept.
        RunFolderError: another version of the program wrote it.
    """
    return _read(folder_of(run, step))


def packed(state: State) -> tuple[dict[str, Any], bytes]:
    """A state as numbers for JSON, and bytes, to be sent to another process; its position goes by itself."""
    tensors = {f"{part} {name}": tensor for part in _TENSORS for name, tensor in getattr(state, part).items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return {name: getattr(state, name) for name in _NUMBERS}, serialised(contiguous)


def unpacked(position: Position, numbers: dict[str, Any], tensors: bytes) -> State:
    """The state that was ``packed``."""
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in _TENSORS}
    for name, tensor in deserialised(tensors).items():
        part, _, own = name.partition(" ")
        parts[part][own] = tensor
    return State(position, **parts, **numbers)


def _prune(run: Path, newest: int) -> None:
    """Removes the state of all but the last checkpoints up to a step that was saved just now."""
    for step in [step for step in complete(run) if step <= newest][:-KEPT]:
        state = folder_of(run, step) / "state"
        with suppress(OSError):  # first the file without which the rest is nothing
            (state / "position.json").unlink(missing_ok=True)
        shutil.rmtree(state, ignore_errors=True)


def _read(folder: Path) -> State:
    if not (folder / "state" / "position.json").exists():
        raise CheckpointError(
            f"the checkpoint {folder} cannot be read: what a run goes on from is kept of the newest {KEPT} alone",
            f"its LoRA is whole: train into another output_dir with init_lora: {folder / 'lora.safetensors'}",
        )
    try:
        data = json.loads((folder / "state" / "position.json").read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise RunFolderError(
                f"the checkpoint {folder} is of format {data['format']}, expected {FORMAT}",
                "train into another output_dir, or use the version of the program that wrote it",
            )
        return State(
            Position(**data["position"]),
            **{name: _copied(load_file(folder / "state" / f"{name}.safetensors")) for name in _TENSORS},
            **{name: data[name] for name in _NUMBERS},
        )
    except RunFolderError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {folder} cannot be read: {error}",
            "delete that folder; the run then resumes from the checkpoint before it",
        ) from None


def _compare(back: State, state: State) -> None:
    pairs = [(getattr(state, name), getattr(back, name)) for name in _TENSORS]
    same = all(getattr(back, name) == getattr(state, name) for name in ("position", *_NUMBERS)) and all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[n].cpu(), theirs[n]) for n in mine)
        for mine, theirs in pairs
    )
    if not same:
        raise CheckpointError("the checkpoint was written, but reads back differently", "check the disk")


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # A copy: safetensors maps the file, and a mapped file cannot be renamed on Windows.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def retry_older(run: Path, read: Callable[[int], _T], say: Callable[[str], None]) -> _T | None:
    """Reads the newest checkpoint that can be read; None if there is none.

    Args:
        run: the run folder.
        read: reads the checkpoint of a step.
        say: takes a line for each newer one that could not be read.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
        RunFolderError: another version of the program wrote it.
    """
    failed: list[CheckpointError] = []
    for step in reversed(complete(run)):
        try:
            found = read(step)
        except CheckpointError as error:
            failed.append(error)
            continue
        for error in failed:
            say(f"{error.message}; going on from step {step}")
        return found
    if failed:
        raise failed[0]
    return None
