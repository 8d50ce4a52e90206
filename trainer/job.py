"""A run, fully resolved: what the worker reads and all that it needs to know.

``job.yaml`` holds the config, the base and the identity; ``dataset.jsonl`` a line an image. The command line and the
host both make a job with ``prepare.py`` and hand the folder to ``run.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import config as config_module
from . import yaml_text
from .cache import Kind
from .config import TrainConfig
from .errors import ConfigError, RunFolderError
from .files import digest, write_text

VERSION = 1


@dataclass(frozen=True)
class Base:
    """The base model.

    Args:
        file: a safetensors checkpoint or a diffusers folder, absolute.
        family: name of its family, such as sd15.
        content: hash of the file's content.
        prediction: what the model predicts; ``epsilon``.
    """

    file: Path
    family: str
    content: str
    prediction: str = "epsilon"


@dataclass(frozen=True)
class Item:
    """An image as it is trained.

    Args:
        id: content id; every draw for this image is keyed by it.
        path: where it came from, for messages.
        captions: the caption variants.
        bucket: (width, height) in pixels.
        repeats: presentations an epoch.
        latents: key in the cache.
        conditioning: keys in the cache, one a caption.
        held_out: validated on, never trained on.
    """

    id: str
    path: str
    captions: tuple[str, ...]
    bucket: tuple[int, int]
    repeats: int
    latents: str
    conditioning: tuple[str, ...]
    held_out: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt of the samples, and the key of its conditioning."""

    text: str
    conditioning: str


@dataclass(frozen=True)
class Job:
    """Everything a run needs. ``origin``: ``command line`` or ``host``; ``empty``: key of the empty caption."""

    config: TrainConfig
    base: Base
    items: tuple[Item, ...]
    prompts: tuple[Prompt, ...]
    empty: str
    cache_dir: Path
    origin: str = "command line"

    @property
    def name(self) -> str:
        """Name of the LoRA."""
        return self.config.name

    @property
    def train_items(self) -> tuple[Item, ...]:
        """The images that are trained on."""
        return tuple(item for item in self.items if not item.held_out)

    def identity(self) -> dict[str, Any]:
        """What shapes the trajectory, part by part. Two jobs with equal identities are the same run."""
        return {
            "base": self.base.content,
            "family": self.base.family,
            "prediction": self.base.prediction,
            "dataset": digest([(i.id, i.captions, i.bucket, i.repeats) for i in self.items if not i.held_out]),
            "latents": digest([i.latents for i in self.items]),
            "conditioning": digest([i.conditioning for i in self.items], self.empty),
            "held_out": digest([i.id for i in self.items if i.held_out]),
            "config": self.config.identity(),
        }

    @property
    def run_id(self) -> str:
        """Twelve hex digits that name this identity."""
        return digest(self.identity())[:12]

    def cache_entries(self) -> Iterator[tuple[Kind, str]]:
        """Every entry of the cache that the run reads."""
        yield "conditioning", self.empty
        for prompt in self.prompts:
            yield "conditioning", prompt.conditioning
        for item in self.items:
            yield "latents", item.latents
            for key in item.conditioning:
                yield "conditioning", key

    def save(self, folder: Path) -> None:
        """Writes ``job.yaml`` and ``dataset.jsonl`` into the run folder, the job last."""
        lines = [json.dumps(asdict(item), ensure_ascii=False) for item in self.items]
        write_text(folder / "dataset.jsonl", "".join(f"{line}\n" for line in lines))
        data = {
            "version": VERSION,
            "run": self.run_id,
            "origin": self.origin,
            "base": {**asdict(self.base), "file": self.base.file.as_posix()},
            "cache_dir": self.cache_dir.as_posix(),
            "empty": self.empty,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "identity": self.identity(),
            "config": self.config.to_plain(),
        }
        write_text(folder / "job.yaml", yaml_text.dumps(data))


def exists(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / "job.yaml").is_file()


def load(folder: Path) -> Job:
    """Reads a run folder.

    Raises:
        RunFolderError: it holds no run, or one that this version cannot read.
    """
    if not exists(folder):
        raise RunFolderError(f"{folder} holds no run (there is no job.yaml in it)", "name the output_dir of a run")
    try:
        data = yaml_text.loads((folder / "job.yaml").read_text(encoding="utf-8"))
        version = data["version"]
        if version != VERSION:
            raise RunFolderError(
                f"{folder / 'job.yaml'} is of format {version}, expected {VERSION}",
                "train into another output_dir, or use the version of the program that wrote it",
            )
        lines = (folder / "dataset.jsonl").read_text(encoding="utf-8").split("\n")
        return Job(
            config=config_module.parse(data["config"], source=str(folder / "job.yaml")),
            base=Base(**{**data["base"], "file": Path(data["base"]["file"])}),
            items=tuple(_item(json.loads(line)) for line in lines if line),
            prompts=tuple(Prompt(**prompt) for prompt in data["prompts"]),
            empty=data["empty"],
            cache_dir=Path(data["cache_dir"]),
            origin=data["origin"],
        )
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        said = "; ".join(error.problems) if isinstance(error, ConfigError) else repr(error)
        raise RunFolderError(
            f"{folder} holds a run whose job.yaml or dataset.jsonl cannot be read: {said:.300}",
            "train into another output_dir",
        ) from None


def differences(old: Job, new: Job) -> list[str]:
    """What differs between two identities, in words, a line a field."""
    before, after = old.identity(), new.identity()
    lines = []
    for part in before:
        if before[part] == after[part]:
            continue
        if part == "config":
            for field, value in after[part].items():
                if before[part].get(field) != value:
                    lines.append(f"{field}: {before[part].get(field)!r} there, {value!r} now")
        else:
            lines.append(_PARTS.get(part, part))
    return lines


_PARTS = {
    "base": "base_model: another file, or other content",
    "family": "base_model: another model family",
    "prediction": "base_model: another prediction type",
    "dataset": "train_data_dir: other images or captions",
    "latents": "the VAE: it encodes other latents",
    "conditioning": "the text encoder: it gives other conditioning",
    "held_out": "the images held out for validation",
}


def _item(data: dict[str, Any]) -> Item:
    return Item(
        **{
            **data,
            "captions": tuple(data["captions"]),
            "bucket": tuple(data["bucket"]),
            "conditioning": tuple(data["conditioning"]),
        }
    )
