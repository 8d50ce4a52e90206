"""What Train LoRA will do, told before Run: answers to the page. Nothing is started, loaded or encoded for it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

import torch
from pydantic import Field

from ..trainer import advisor, estimate
from ..trainer.config import TrainConfig, parse
from ..trainer.dataset import scan
from ..trainer.device import card_name
from ..trainer.events import Advised, Chosen
from ..trainer.peek import peek
from ..trainer.sinks import describe
from . import text_estimates
from .asked import Asked, Name, Nothing, Typed
from .config import READER
from .dataset import Values, asked_for
from .host import demo_base, memory, places
from .payloads import DatasetRef
from .settings import preset_widgets, resolve
from .sources import Folder
from .training import decide

LANGUAGES = ("language", "text_encoder")


def presets(asked: Nothing) -> dict[str, Any]:
    """GET /presets: ``{presets: {name: {input: value}}}``, in the order in which they are offered."""
    return {"presets": preset_widgets()}


class Base(Asked):
    """The model that is trained on.

    Args:
        kind: demo, checkpoint or unet; for texts language (Load Language Model) or text_encoder (Load CLIP).
        name: in the list of these.
        path: typed; wins over the name.
    """

    kind: Name
    name: Name = ""
    path: Typed = ""


class Question(Asked):
    """What Train LoRA has before it.

    Args:
        dataset: Load Dataset's values.
        base: the model.
        config: inputs of LoRA Train Config.
        wired: the names of those that are links.
        captioned: whether Auto Caption stands between, so that captions which are missing now will be there.
        devices: how many share each step.
    """

    dataset: Values
    base: Base
    config: dict[str, Any]
    wired: Annotated[tuple[Name, ...], Field(max_length=200, strict=False)] = ()
    captioned: bool = False
    devices: Annotated[int, Field(ge=1)] = 1


def answer(asked: Question) -> dict[str, Any]:
    """POST /estimate: what a run with these inputs will be.

    Returns:
        The fields of ``estimate.Estimate`` (none of them, where the model is yet to be made); ``text``: whether these
        are texts; ``device``, such as cuda:0, and ``card``, what it is called; ``room``: the card's memory in bytes, 0
        where it has none of its own. ``chosen``: what every ``auto`` becomes, and why; ``advice``: what to mind, lines
        for people.

    Raises:
        UserError: an input cannot be used.
    """
    ref = asked_for(asked.dataset)
    # What counts of the settings, as Train LoRA has it: a YAML names files, too, which a client may not.
    values = resolve(asked.config, asked.wired, READER).values
    config = parse({**values, "cache_dir": places.cache().as_posix()}, source="LoRA Train Config")
    config = config.in_processes(asked.devices)
    device = torch.device(memory.device())
    if ref.text and asked.base.kind in LANGUAGES:
        found, told = text_estimates.answer(config, ref, asked.base.kind, asked.base.name, asked.base.path)
    else:
        found, told = _of_images(asked, ref, config, device)
    later = "caption_source" if asked.captioned else ""
    room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    return {
        **found,
        "device": str(device),
        "card": card_name(device) or str(device),
        "room": room,
        "chosen": [describe(event) for event in told if isinstance(event, Chosen)],
        "advice": [describe(event) for event in told if isinstance(event, Advised) and event.field != later],
    }


def _of_images(
    asked: Question, ref: DatasetRef, config: TrainConfig, device: torch.device
) -> tuple[dict[str, Any], Any]:
    """The fields of an estimate, and what is to be said of the job."""
    file = demo_base.FILE if asked.base.kind == "demo" else places.checkpoint(asked.base.name)
    base, source = peek(file), Folder(ref)
    config = config.but(train_text_encoder=False, base_model=file.as_posix(), **source.decided())
    scanned = source.dataset(config)
    config, choices = decide(config, scanned, base)
    if choices:
        scanned = source.dataset(config)
    regular = None
    if config.reg_data_dir is not None:
        regular = scan(config.reg_data_dir, resolution=config.resolution, fallback=config.class_prompt)
    job = estimate.plan(config, scanned, regular, base.family)
    found = estimate.estimate(job, base, str(device), card_name(device), places.runs())
    return asdict(found), advisor.before(replace(job, choices=tuple(choice.told for choice in choices)))
