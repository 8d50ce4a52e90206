"""What a run is trained on: a folder of pictures, or latents and conditioning that the graph has made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..trainer.cache import Cache
from ..trainer.config import TrainConfig
from ..trainer.dataset import Dataset, ImageItem
from ..trainer.errors import HostError
from ..trainer.job import Job
from ..trainer.prepare import Encoder
from .payloads import DatasetRef

LATENT_SCALE = 8
# What a CONDITIONING may say beside its tensor; everything else (areas, masks, hooks, ControlNets) is not trained.
KNOWN = {"pooled_output"}


class Source(Protocol):
    """What a run is trained on."""

    def decided(self) -> dict[str, Any]:
        """Fields of the config that follow from it."""
        ...

    def dataset(self, config: TrainConfig) -> Dataset:
        """Its images, as ``config`` wants them."""
        ...

    def store(self, job: Job, cache: Cache, encoder: Encoder) -> None:
        """Put into the cache what is encoded already."""
        ...


class Folder:
    """A folder of pictures and captions."""

    def __init__(self, ref: DatasetRef) -> None:
        self.ref = ref

    def decided(self) -> dict[str, Any]:
        """Where it lies, and how it is read."""
        return {
            "train_data_dir": self.ref.folder.as_posix(),
            "trigger_word": self.ref.trigger_word,
            "repeats": self.ref.repeats,
            "caption_source": self.ref.captions,
            "exclude": list(self.ref.exclude),
        }

    def dataset(self, config: TrainConfig) -> Dataset:
        """The folder, scanned.

        Raises:
            DatasetError: nothing in it can be trained on.
        """
        return self.ref.scan(
            resolution=config.resolution,
            mask=config.mask,
            index=Cache(config.cache_dir).index if config.cache_dir else None,
        )

    def store(self, job: Job, cache: Cache, encoder: Encoder) -> None:
        """Nothing of it is encoded yet."""


class Encoded:
    """Latents and conditioning, as core's MakeTrainingDataset gives them.

    Args:
        latents: ``{"samples": [B, 4, h, w]}`` each, unscaled.
        conditioning: ``[[tensor [1, 77 n, D], {"pooled_output": ...}]]`` each; one for each of the latents, or one
            for all.

    Raises:
        HostError: they cannot be used, or their counts differ.
    """

    def __init__(self, latents: Sequence[Any], conditioning: Sequence[Any]) -> None:
        samples = [one for number, given in enumerate(latents, 1) for one in _samples(given, number).split(1)]
        texts = [_text(given, number) for number, given in enumerate(conditioning, 1)]
        if not samples or len(texts) not in (1, len(samples)):
            raise HostError(
                f"Train LoRA: {len(samples)} latents and {len(texts)} conditionings are wired; expected as many of "
                "both, or one conditioning",
                "wire both outputs of one Make Training Dataset",
            )
        texts = texts * len(samples) if len(texts) == 1 else texts
        copies: Counter[str] = Counter()
        self._entries: dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}
        items = []
        for number, (sample, text) in enumerate(zip(samples, texts, strict=True), 1):
            content = _content({"latents": sample})
            copies[content] += 1
            key = content if copies[content] == 1 else f"{content}-{copies[content]}"
            size = (sample.shape[-1] * LATENT_SCALE, sample.shape[-2] * LATENT_SCALE)
            # The caption stands for the conditioning: the same one is the same run.
            captions = (f"wired conditioning {_content(text)[:12]}",)
            items.append(ImageItem(key, Path(f"latents {number}"), captions, size, size, 1))
            self._entries[key] = (sample, text)
        self._items = tuple(items)

    def decided(self) -> dict[str, Any]:
        """Nothing: there is no folder."""
        return {}

    def dataset(self, config: TrainConfig) -> Dataset:
        """The latents as images that need no encoding.

        Raises:
            HostError: the config wants what only pictures have.
        """
        wants = {"flip": config.flip, "mask": config.mask != "no", "caption_shuffle": config.caption_shuffle}
        if asked := ", ".join(name for name, wanted in wants.items() if wanted):
            raise HostError(
                f"{asked}: not with wired latents, which are encoded already",
                "wire a dataset from Load Dataset instead, or switch it off in LoRA Train Config",
            )
        return Dataset(Path(), self._items, ())

    def store(self, job: Job, cache: Cache, encoder: Encoder) -> None:
        """Put latents and conditioning under the keys that the job reads.

        Raises:
            HostError: they are of another kind of model.
            CacheError: they are not finite, or cannot be written.
        """
        expected = encoder.encode_texts([""])[0]
        for item in job.items:
            if item.id not in self._entries:  # a regularisation image, from a folder
                continue
            sample, text = self._entries[item.id]
            missing = expected.keys() - text.keys()
            if missing or text["hidden"].shape[-1] != expected["hidden"].shape[-1]:
                raise HostError(
                    f"Train LoRA: the wired conditioning is {text['hidden'].shape[-1]} wide"
                    f"{' and has no pooled output' if missing else ''}; the wired CLIP gives "
                    f"{expected['hidden'].shape[-1]}",
                    "encode the captions with the CLIP that is wired into Train LoRA",
                )
            if not cache.has("latents", item.latents):
                cache.store("latents", item.latents, {"latents": sample})
            if not cache.has("conditioning", item.conditioning[0]):
                cache.store("conditioning", item.conditioning[0], {name: text[name] for name in expected})


def _samples(given: Any, number: int) -> torch.Tensor:
    """The latents of one LATENT."""
    samples: Any = given.get("samples") if isinstance(given, Mapping) else None
    if not isinstance(samples, torch.Tensor) or samples.ndim != 4 or samples.shape[1] != 4:
        shape = list(samples.shape) if isinstance(samples, torch.Tensor) else type(samples).__name__
        raise HostError(
            f"Train LoRA: latents {number} have the shape {shape}, expected [batch, 4, height / 8, width / 8]",
            "encode the pictures with the VAE of the checkpoint that is trained",
        )
    return samples.detach().float().cpu().contiguous()


def _text(given: Any, number: int) -> dict[str, torch.Tensor]:
    """One CONDITIONING as the cache keeps it."""
    if not isinstance(given, (list, tuple)) or len(given) != 1:
        parts = len(given) if isinstance(given, (list, tuple)) else type(given).__name__
        raise HostError(
            f"Train LoRA: conditioning {number} has {parts} parts, expected 1 (one caption)",
            "wire the conditioning before it is combined",
        )
    hidden, more = given[0]
    foreign = sorted(name for name, value in more.items() if name not in KNOWN and value is not None)
    if foreign:
        raise HostError(
            f"Train LoRA: conditioning {number} carries {', '.join(foreign)}, which cannot be trained",
            "wire the conditioning of a plain CLIP Text Encode or Make Training Dataset",
        )
    text = {"hidden": hidden.detach().float().cpu().contiguous()}
    if more.get("pooled_output") is not None:
        text["pooled"] = more["pooled_output"].detach().float().cpu().contiguous()
    return text


def _content(tensors: Mapping[str, torch.Tensor]) -> str:
    """32 hex digits that name tensors by content."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hasher.update(f"{name} {list(tensor.shape)}".encode())
        hasher.update(tensor.numpy().tobytes())
    return hasher.hexdigest()[:32]
