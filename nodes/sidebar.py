"""What the list of runs in ComfyUI's sidebar asks for, and does to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..trainer.errors import HostError
from . import background, board, owners, runs, shelf, story, trained
from .asked import Asked, Name, One
from .host import clients, places, saving

_board = board.Board()


class Keep(One):
    """A LoRA of a run, by its step, best or last, and the name of the file that it shall be."""

    name: Name
    step: Name = runs.BEST


class Delete(Asked):
    """A run, by its whole id."""

    run: Name


def size(asked: One) -> dict[str, Any]:
    """GET /runs/{run}/size: {run, bytes}: what deleting it would free.

    Raises:
        HostError: there is no such run.
    """
    state = trained.state_of(asked.run)
    return {"run": state.id, "bytes": shelf.size(places.runs() / state.id)}


def keep(asked: Keep) -> dict[str, Any]:
    """POST /runs/{run}/keep: {name, step}: a copy among ComfyUI's LoRAs, as Save LoRA makes it, with its preview.

    Raises:
        HostError: there is no such run or step, or the name cannot be used.
        ExportError: it cannot be read, or not be written.
    """
    folder = places.runs() / trained.state_of(asked.run).id
    step, lora = next(iter(trained.load_of(folder, asked.step).loras.items()))
    return {"name": saving.save(lora, asked.name, _sample(folder, step)), "step": step}


def delete(asked: Delete) -> dict[str, Any]:
    """POST /runs/{run}/delete: {bytes} that this frees: none where another profile has it too.

    Raises:
        HostError: there is no such run, it is being trained, or it is queued.
    """
    root, user = places.runs(), clients.user()
    if asked.run not in {state.id for state in runs.every(root, user)}:
        raise HostError(f"there is no run {asked.run[:80]}", "it may have been deleted already: reload the list")
    if owners.leave(root / asked.run, user):
        return {"bytes": 0}
    return {"bytes": shelf.delete(root, asked.run, background.foreman().told()["waiting"])}


def tensorboard(asked: One) -> dict[str, Any]:
    """POST /tensorboard: {url} of a TensorBoard on this machine that shows a run; it is started when first asked for.

    Raises:
        HostError: there is no such run, nothing of it was written for TensorBoard, or that is not installed.
    """
    run = trained.state_of(asked.run).id
    if not board.has_logs(places.runs() / run):
        raise HostError(
            "nothing of this run was written for TensorBoard",
            "it is when tensorboard is installed (pip install tensorboard) before it is trained",
        )
    return {"url": f"{_board.url(places.runs())}?runFilter={run}#timeseries"}


def _sample(folder: Path, step: int) -> torch.Tensor | None:
    """The first sample of a step, or of the last before it that has some, [1, H, W, 3] in 0..1; None without one."""
    before = [one for one in story.of(folder)["samples"] if one["step"] <= step and one["picture"]]
    if not before:
        return None
    newest = max(one["step"] for one in before)
    name = next(one["picture"] for one in before if one["step"] == newest)
    with Image.open(folder / "samples" / name) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
