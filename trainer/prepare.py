"""From a config and a dataset to a job: encodes what the cache lacks, and writes down what the run will read.

The host calls this with the wired CLIP and VAE, the command line with the family's own encoders; both are an
``Encoder``, so both fill the same cache the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from . import draws
from .cache import Cache, conditioning_key, latents_key
from .config import TrainConfig
from .dataset import Dataset, ImageItem, load_pixels
from .errors import DatasetError
from .events import Event, Phase
from .job import Base, Item, Job, Prompt


class Encoder(Protocol):
    """Turns pictures and captions into what the denoiser is trained on.

    The fingerprints name the encoders' content and settings; they are asked for always, the encodings only for what
    the cache lacks.
    """

    @property
    def latents_fingerprint(self) -> str:
        """Names the VAE by content."""
        ...

    @property
    def conditioning_fingerprint(self) -> str:
        """Names the text encoder by content and settings (clip skip)."""
        ...

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] in 0..1 -> [1, C, H/8, W/8], fp32: the posterior's mode, unscaled."""
        ...

    def encode_text(self, caption: str) -> dict[str, torch.Tensor]:
        """``hidden`` [1, 77 n, D], and what else the family conditions on."""
        ...


class StoppedWhilePreparing(BaseException):
    """Raised when a stop was asked for while encoding; what is encoded so far stays in the cache."""


def plan(
    config: TrainConfig,
    dataset: Dataset,
    base: Base,
    encoder: Encoder,
    cache_dir: Path,
    origin: str = "command line",
) -> Job:
    """The job of a config and a dataset. Encodes nothing: only the encoders' fingerprints are asked for.

    Args:
        config: with absolute paths (``resolved``).
        dataset: as scanned with the config's resolution, trigger word and repeats.
        base: the base model.
        encoder: will encode.
        cache_dir: the folder of the cache.
        origin: ``command line`` or ``host``.

    Raises:
        DatasetError: too few images for the held-out split.
    """
    held_out = _held_out(dataset.items, config)
    vae, text = encoder.latents_fingerprint, encoder.conditioning_fingerprint
    items = tuple(
        Item(
            id=image.id,
            path=image.path.as_posix(),
            captions=image.captions,
            bucket=image.bucket,
            repeats=image.repeats,
            latents=latents_key(vae, _content(image), image.bucket),
            conditioning=tuple(conditioning_key(text, caption) for caption in image.captions),
            held_out=image.id in held_out,
        )
        for image in dataset.items
    )
    prompts = tuple(Prompt(p, conditioning_key(text, p)) for p in _prompts(config, items))
    return Job(config, base, items, prompts, conditioning_key(text, ""), cache_dir, origin)


def fill(
    job: Job,
    dataset: Dataset,
    encoder: Encoder,
    cache: Cache,
    *,
    emit: Callable[[Event], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Encodes what the cache lacks for the job.

    Images and captions are encoded one at a time: the same numbers come out whatever else is in the data set.

    Args:
        job: as ``plan`` made it from the dataset.
        dataset: where the pixels are.
        encoder: encodes.
        cache: where to.
        emit: takes Phase events.
        stop: polled between two encodings.

    Raises:
        CacheError: an encoding is not finite, or cannot be written.
        StoppedWhilePreparing: ``stop`` said so.
    """

    def check() -> None:
        if stop():
            raise StoppedWhilePreparing

    captions = {job.empty: ""}
    captions |= {prompt.conditioning: prompt.text for prompt in job.prompts}
    for item in job.items:
        captions |= dict(zip(item.conditioning, item.captions, strict=True))
    missing = {key: caption for key, caption in captions.items() if not cache.has("conditioning", key)}
    for done, (key, caption) in enumerate(missing.items()):
        check()
        emit(Phase("encoding captions", done, len(missing)))
        cache.store("conditioning", key, encoder.encode_text(caption))

    pictures = {item.latents: image for item, image in zip(job.items, dataset.items, strict=True)}
    lacking = {key: image for key, image in pictures.items() if not cache.has("latents", key)}
    for done, (key, image) in enumerate(lacking.items()):
        check()
        emit(Phase("encoding images", done, len(lacking)))
        cache.store("latents", key, {"latents": encoder.encode_image(load_pixels(image)[None])})
    cache.trim(set(job.cache_entries()))


def _content(image: ImageItem) -> str:
    """The content id without the mark of a duplicate."""
    return image.id.split("-")[0]


def _held_out(images: tuple[ImageItem, ...], config: TrainConfig) -> set[str]:
    """Ids to hold out: drawn by content, so that a duplicate is never on both sides."""
    count = config.validation_images
    if not count:
        return set()
    contents = sorted({_content(image) for image in images}, key=lambda i: draws.uniform(config.seed, "hold out", i))
    if count >= len(contents):
        raise DatasetError(
            f"validation_images: {count} cannot be held out of {len(contents)} different images",
            "hold out fewer, or add images",
        )
    chosen = set(contents[:count])
    return {image.id for image in images if _content(image) in chosen}


def _prompts(config: TrainConfig, items: tuple[Item, ...]) -> list[str]:
    if not config.sample_every:
        return []
    if config.sample_prompts:
        return list(config.sample_prompts)
    captions = dict.fromkeys(item.captions[0] for item in items if not item.held_out)
    return list(captions)[:2]
