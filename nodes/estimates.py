"""What Train LoRA will do, told before Run: answers to the page. Nothing is started, loaded or encoded for it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

import torch
from pydantic import Field

from ..trainer import advisor, estimate
from ..trainer.dataset import scan
from ..trainer.device import card_name
from ..trainer.events import Advised, Chosen
from ..trainer.peek import peek
from ..trainer.sinks import describe
from .asked import Asked, Name, Nothing
from .config import READER
from .dataset import Values, asked_for
from .host import demo_base, memory, places
from .settings import preset_widgets, resolve
from .sources import Folder
from .training import decide


def presets(asked: Nothing) -> dict[str, Any]:
    """GET /presets: ``{presets: {name: {input: value}}}``, in the order in which they are offered."""
    return {"presets": preset_widgets()}


class Base(Asked):
    """The model that is trained on. Args: kind: demo, checkpoint or unet. name: in ComfyUI's list of these."""

    kind: Name
    name: Name = ""


class Question(Asked):
    """What Train LoRA has before it.

    Args:
        dataset: Load Dataset's values.
        base: the model.
        config: inputs of LoRA Train Config.
        wired: the names of those that are links.
        captioned: whether Auto Caption stands between, so that captions which are missing now will be there.
    """

    dataset: Values
    base: Base
    config: dict[str, Any]
    wired: Annotated[tuple[Name, ...], Field(max_length=200, strict=False)] = ()
    captioned: bool = False


def answer(asked: Question) -> dict[str, Any]:
    """POST /estimate: what a run with these inputs will be.

    Returns:
        The fields of ``estimate.Estimate``; ``device``, such as cuda:0, and ``card``, what it is called; ``room``: the
        card's memory in bytes, 0 where it has none of its own. ``chosen``: what every ``auto`` becomes, and why;
        ``advice``: what to mind, lines for people.

    Raises:
        UserError: an input cannot be used.
    """
    file = demo_base.FILE if asked.base.kind == "demo" else places.checkpoint(asked.base.name)
    base, source = peek(file), Folder(asked_for(asked.dataset))
    config = resolve(asked.config, asked.wired, READER).config
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
    later = "caption_source" if asked.captioned else ""
    room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    return {
        **asdict(found),
        "device": str(device),
        "card": card or str(device),
        "room": room,
        "chosen": [describe(event) for event in told if isinstance(event, Chosen)],
        "advice": [describe(event) for event in told if isinstance(event, Advised) and event.field != later],
    }
