"""What Train LoRA will do, told before Run: answers to the page. Nothing is started, loaded or encoded for it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..trainer import advisor, estimate
from ..trainer.dataset import scan
from ..trainer.device import card_name
from ..trainer.errors import HostError
from ..trainer.events import Advised, Chosen
from ..trainer.peek import peek
from ..trainer.sinks import describe
from .config import READER
from .dataset import asked_for
from .host import demo_base, memory, places
from .settings import preset_widgets, resolve
from .sources import Folder
from .training import decide


def presets(asked: dict[str, Any]) -> dict[str, Any]:
    """GET /presets: ``{presets: {name: {input: value}}}``, in the order in which they are offered."""
    return {"presets": preset_widgets()}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """POST /estimate: what a run with these inputs will be.

    Args:
        asked: ``dataset`` (as of ``dataset.asked_for``), ``config`` (inputs of LoRA Train Config), ``wired`` (the
            names of those that are links), ``base`` ({kind: demo, or checkpoint with its name}), ``captioned``:
            whether Auto Caption stands between, so that captions which are missing now will be there.

    Returns:
        The fields of ``estimate.Estimate``; ``device``, such as cuda:0, and ``card``, what it is called; ``room``: the
        card's memory in bytes, 0 where it has none of its own. ``chosen``: what every ``auto`` becomes, and why;
        ``advice``: what to mind, lines for people.

    Raises:
        UserError: an input cannot be used.
    """
    file = _base_file(_part(asked, "base"))
    base, source = peek(file), Folder(asked_for(_part(asked, "dataset")))
    config = resolve(_part(asked, "config"), _names(asked, "wired"), READER).config
    config = config.but(train_text_encoder=False, base_model=file.as_posix(), **source.decided())
    scanned = source.dataset(config)
    config, choices = decide(config, scanned, base)
    if choices:
        scanned = source.dataset(config)
    regular = None
    if config.reg_data_dir is not None:
        regular = scan(config.reg_data_dir, resolution=config.resolution, fallback=config.class_prompt)
    device = torch.device(memory.device())
    card = card_name(device)
    job = estimate.plan(config, scanned, regular, base.family)
    told = advisor.before(replace(job, choices=tuple(choice.told for choice in choices)))
    found = estimate.estimate(job, base, str(device), card, places.runs())
    later = "caption_source" if asked.get("captioned") is True else ""
    room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    return {
        **asdict(found),
        "device": str(device),
        "card": card or str(device),
        "room": room,
        "chosen": [describe(event) for event in told if isinstance(event, Chosen)],
        "advice": [describe(event) for event in told if isinstance(event, Advised) and event.field != later],
    }


def _part(asked: dict[str, Any], name: str) -> dict[str, Any]:
    found = asked.get(name)
    if not isinstance(found, dict):
        raise HostError(f"{name}: expected an object, got {found!r:.60}")
    return found


def _names(asked: dict[str, Any], name: str) -> list[str]:
    found = asked.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise HostError(f"{name}: expected a list of names, got {found!r:.60}")
    return found


def _base_file(base: dict[str, Any]) -> Path:
    return demo_base.FILE if base.get("kind") == "demo" else places.checkpoint(str(base.get("name", "")))
