"""What passes between our nodes beside ComfyUI's own types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_api.latest import io

CATEGORY = "LoRA Darkroom"
# ComfyUI since March 2026: what a node shows is shown again when it comes out of the cache.
KEPT: dict[str, Any] = (
    {"has_intermediate_output": True} if "has_intermediate_output" in io.Schema.__dataclass_fields__ else {}
)
DatasetType = io.Custom("DARKROOM_DATASET")
ConfigType = io.Custom("DARKROOM_CONFIG")


@dataclass(frozen=True)
class DatasetRef:
    """DARKROOM_DATASET: a folder, and how it is to be read. It is scanned anew where it is used.

    Args:
        folder: absolute.
        trigger_word: put in front of captions that lack it.
        repeats: presentations of an image in an epoch.
        captions: where they come from, a key of ``trainer.dataset.SOURCES``.
    """

    folder: Path
    trigger_word: str = ""
    repeats: int = 1
    captions: str = "auto"


@dataclass(frozen=True)
class ConfigFields:
    """DARKROOM_CONFIG: fields of ``TrainConfig`` as plain values, checked when the node ran."""

    values: dict[str, Any]
