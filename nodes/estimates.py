"""What Train LoRA will do, told before Run: answers to the page. Nothing is started, loaded or encoded for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..trainer import estimate
from ..trainer.dataset import scan
from ..trainer.errors import HostError
from ..trainer.peek import peek
from .config import READER
from .dataset import chosen
from .host import demo_base, memory, places
from .settings import preset_widgets, resolve

CURE = "in less memory: batch_size 1 with gradient_accumulation_steps, gradient_checkpointing, a lower resolution"


def presets(asked: dict[str, Any]) -> dict[str, Any]:
    """GET /presets: ``{presets: {name: {input: value}}}``, in the order in which they are offered."""
    return {"presets": preset_widgets()}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """POST /estimate: what a run with these inputs will be.

    Args:
        asked: ``dataset`` ({folder, path, repeats}), ``config`` (inputs of LoRA Train Config), ``wired`` (the names of
            those that are links), ``base`` ({kind: demo, or checkpoint with its name}).

    Returns:
        The fields of ``estimate.Estimate``, ``device``, and ``lines`` for people: the first is the estimate, then how
        it is known; ``warning`` if it will not fit.

    Raises:
        UserError: an input cannot be used.
    """
    data, base = _part(asked, "dataset"), peek(_base_file(_part(asked, "base")))
    config = resolve(_part(asked, "config"), asked.get("wired") or (), READER).config
    folder = chosen(str(data.get("folder", "")), str(data.get("path", "")))
    scanned = scan(folder, resolution=config.resolution, repeats=int(data.get("repeats") or 1), mask=config.mask)
    regular = None
    if config.reg_data_dir is not None:
        regular = scan(config.reg_data_dir, resolution=config.resolution, fallback=config.class_prompt)
    device = memory.device()
    job = estimate.plan(config.but(train_text_encoder=False), scanned, regular, base.family)
    found = estimate.estimate(job, base, device, places.runs())
    where, room = _card(device)
    warning = ""
    if room and found.memory > room:
        warning = f"that is more than {where} has ({room / 1e9:.1f} GB); {CURE}"
    return {**asdict(found), "device": device, "lines": estimate.lines(found, where), "warning": warning}


def _part(asked: dict[str, Any], name: str) -> dict[str, Any]:
    found = asked.get(name)
    if not isinstance(found, dict):
        raise HostError(f"{name}: expected an object, got {found!r:.60}")
    return found


def _base_file(base: dict[str, Any]) -> Path:
    return demo_base.FILE if base.get("kind") == "demo" else places.checkpoint(str(base.get("name", "")))


def _card(device: str) -> tuple[str, int]:
    """What a device is called, and its memory in bytes (0: not asked)."""
    if not device.startswith("cuda"):
        return device, 0
    return torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
