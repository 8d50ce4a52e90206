"""What passes between our nodes beside ComfyUI's own types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from comfy_api.latest import io

from ..trainer.dataset import Dataset, scan
from ..trainer.errors import HostError
from ..trainer.text import TextDataset, looks_like_text
from ..trainer.text import scan as scan_text

CATEGORY = "LoRA Darkroom"
T = TypeVar("T")
DatasetType = io.Custom("DARKROOM_DATASET")
ConfigType = io.Custom("DARKROOM_CONFIG")


@dataclass(frozen=True)
class DatasetRef:
    """DARKROOM_DATASET: a folder, and how it is to be read. It is scanned anew where it is used.

    Args:
        folder: absolute; of text it may be a file.
        trigger_word: put in front of captions that lack it.
        repeats: presentations of an image in an epoch.
        captions: where they come from, a key of ``trainer.dataset.SOURCES``.
        exclude: names of images that are not trained, relative to the folder.
    """

    folder: Path
    trigger_word: str = ""
    repeats: int = 1
    captions: str = "auto"
    exclude: tuple[str, ...] = ()

    @property
    def text(self) -> bool:
        """Whether it is text rather than images, as it is now."""
        return looks_like_text(self.folder)

    def scan(self, **more: Any) -> Dataset:
        """The folder of images as it is now; ``more`` are further arguments of ``trainer.dataset.scan``.

        Raises:
            HostError: it holds text.
            DatasetError: nothing in it can be trained on.
        """
        if self.text:
            raise HostError(
                f"dataset: {self.folder} holds text, expected images",
                "wire it to Train LoRA, with a CLIP that holds a language model; else choose a folder with images",
            )
        read = {"trigger_word": self.trigger_word, "repeats": self.repeats, "captions": self.captions}
        return scan(self.folder, exclude=self.exclude, **read, **more)

    def texts(self) -> TextDataset:
        """The text as it is now.

        Raises:
            DatasetError: nothing in it can be trained on.
        """
        return scan_text(self.folder, repeats=self.repeats)


@dataclass(frozen=True)
class ConfigFields:
    """DARKROOM_CONFIG: fields of ``TrainConfig`` as plain values, checked when the node ran."""

    values: dict[str, Any]


def strength(name: str, default: float, tooltip: str, **more: Any) -> io.Float.Input:
    """The input of a LoRA's strength."""
    bounds = {"min": -20.0, "max": 20.0, "step": 0.05, "round": 0.01}
    return io.Float.Input(name, default=default, tooltip=tooltip, **bounds, **more)


def explained(choices: Mapping[str, str]) -> str:
    """What can be chosen, and what each means, for a tooltip: a line each."""
    return "\n".join(f"{name}: {text}." for name, text in choices.items())


def one(what: str, values: Sequence[T]) -> T:
    """The one value of an input, of a node that takes all its inputs as lists.

    Raises:
        HostError: there is another number of them.
    """
    if len(values) != 1:
        raise HostError(f"{what}: {len(values)} values are wired, expected one", "wire one, or a node of its own each")
    return values[0]
