"""The nodes. Thin: schemas, and the mapping of inputs to the trainer; what touches ComfyUI's inside is in ``host``."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from .blocks import LoRABlocks, MergeLoRAs, ResizeLoRA
from .caption import AutoCaption
from .config import LoRATrainConfig
from .dataset import LoadDataset
from .demo import LoadDemoBase
from .language import LoadLanguageModel
from .lora import ApplyLoRA, LoadTrainedLoRA, SaveLoRA
from .pictures import DatasetImages
from .sweep import LabelledGrid, StrengthSweep
from .train import TrainLoRA
from .training_sweep import TrainingSweep
from .words import CaptionWords


class DarkroomExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return [
            LoadDataset, AutoCaption, LoRATrainConfig, TrainLoRA, SaveLoRA, ApplyLoRA, LoadDemoBase, LoadTrainedLoRA,
            StrengthSweep, LabelledGrid, LoRABlocks, ResizeLoRA, MergeLoRAs, DatasetImages,
            TrainingSweep, CaptionWords, LoadLanguageModel,
        ]  # fmt: skip


def begin() -> None:
    """Make the demo base's architecture known, so that the stock loader takes its file as well; add routes and folders.

    Not in the extension's ``on_load``, which ComfyUI calls only from 0.14 on.
    """
    from . import background
    from .host import clients, compat, demo_base, places, web
    from .routes import ROUTES

    compat.accept_later_keywords()
    clients.watch()
    places.add_captioners()
    places.add_languages()
    web.register(ROUTES)
    background.begin()
    web.serve_modules()
    if not demo_base.register():
        logging.warning("LoRA Darkroom: the demo base %s is missing; Load Demo Base will not work", demo_base.FILE)
