"""From a config and a dataset to a job: encodes what the cache lacks, and writes down what the run will read.

The host calls this with the wired CLIP and VAE, the command line with the family's own encoders; both are an
``Encoder``, so both fill the same cache the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn.functional import interpolate

from . import draws
from .cache import Cache, Kind, conditioning_key, latents_key
from .canaries import canary
from .config import SamplePrompt, TrainConfig
from .dataset import Dataset, ImageItem
from .dataset.ahead import Behind, ahead, threads
from .dataset.near import alike
from .dataset.pixels import check_unchanged, load_both
from .dataset.variants import shuffled, without
from .errors import ConfigError, DatasetError
from .events import Event, Phase
from .job import REGULARISATION, Base, ClassPrompt, Item, Job, Prompt

CAPTIONS_SAMPLED = 3
CLASS_PROMPTS = 4


class Fingerprints(Protocol):
    """Names what encodes, by content and settings: all that planning asks for."""

    @property
    def latents_fingerprint(self) -> str:
        """Names the VAE by content."""
        ...

    @property
    def conditioning_fingerprint(self) -> str:
        """Names the text encoder by content and settings (clip skip)."""
        ...


class Encoder(Fingerprints, Protocol):
    """Turns pictures and captions into what the denoiser is trained on; asked only for what the cache lacks."""

    @property
    def texts_at_once(self) -> int:
        """How many captions it is best given together."""
        ...

    def images_at_once(self, pixels: int) -> int:
        """How many pictures of so many pixels it is best given together: what its device has memory for."""
        ...

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, H/8, W/8], fp32: the posterior's mode, unscaled."""
        ...

    def encode_texts(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """Of each caption ``hidden`` [1, 77 n, D], and what else the family conditions on."""
        ...


class StoppedWhilePreparing(BaseException):
    """Raised when a stop was asked for while encoding; what is encoded so far stays in the cache."""


def plan(
    config: TrainConfig,
    dataset: Dataset,
    base: Base,
    encoder: Fingerprints,
    cache_dir: Path,
    origin: str = "command line",
    *,
    regularisation: Dataset | None = None,
    init: str = "",
) -> Job:
    """The job of a config and a dataset. Encodes nothing: only the encoders' fingerprints are asked for.

    Args:
        config: with absolute paths (``resolved``).
        dataset: as scanned with the config's resolution, trigger word and repeats.
        base: the base model.
        encoder: names what will encode.
        cache_dir: the folder of the cache.
        origin: ``command line`` or ``host``.
        regularisation: the images of ``reg_data_dir``, scanned without a trigger word.
        init: hash of ``init_lora``.

    Raises:
        ConfigError: the host cannot do what the config asks for.
        DatasetError: too few images for the held-out split.
    """
    if origin == "host" and config.train_text_encoder:
        raise ConfigError(
            ["train_text_encoder: not in the graph, whose captions the wired CLIP encodes; train on the command line"]
        )
    held_out = _held_out(dataset.items, config)
    vae, text = encoder.latents_fingerprint, encoder.conditioning_fingerprint

    def item(image: ImageItem, prefix: str = "", **changes: Any) -> Item:
        captions = changes.pop("captions", None) or _variants(image, config)
        key = partial(latents_key, vae, image.content, image.bucket, mask=image.mask_id)
        return Item(
            id=prefix + image.id,
            path=image.path.as_posix(),
            captions=captions,
            size=image.size,
            bucket=image.bucket,
            repeats=changes.pop("repeats", image.repeats),
            latents=key(),
            conditioning=tuple(conditioning_key(text, caption) for caption in captions),
            flipped=key(flipped=True) if config.flip else "",
            mask=image.mask_id,
            **changes,
        )

    items = [item(image, held_out=image.id in held_out) for image in dataset.items]
    if regularisation is not None:
        shown = sum(i.repeats for i in items if not i.held_out)
        for image, repeats in _shared_out(regularisation.items, shown, config.seed):
            captions = tuple(caption or config.class_prompt for caption in image.captions)
            items.append(item(image, REGULARISATION, captions=captions, repeats=repeats, weight=config.prior_weight))
    prompts = tuple(
        Prompt(
            wish.prompt,
            conditioning_key(text, wish.prompt),
            wish.negative,
            conditioning_key(text, wish.negative),
            wish.seed,
            wish.steps,
            wish.guidance,
            wish.strength,
            wish.width,
            wish.height,
        )
        for wish in _prompts(config, base, items)
    )
    return Job(
        config,
        base,
        tuple(items),
        prompts,
        conditioning_key(text, ""),
        cache_dir,
        origin,
        class_prompt=conditioning_key(text, config.class_prompt) if config.prior_preservation else "",
        init=init,
        vae=vae,
        text_encoder=text,
        class_prompts=tuple(
            ClassPrompt(image, prompt, conditioning_key(text, prompt)) for image, prompt in _generic(config, items)
        ),
    )


def fill(
    job: Job,
    dataset: Dataset,
    encoder: Encoder,
    cache: Cache,
    *,
    regularisation: Dataset | None = None,
    emit: Callable[[Event], None],
    stop: Callable[[], bool] = lambda: False,
    share: slice = slice(None),
) -> None:
    """Encodes what the cache lacks for the job.

    Images and captions are encoded in batches of what the encoder wants, images of one size. Meanwhile the next few are
    decoded, and the last one is written, so that what is held of pictures does not grow with their number.

    Args:
        job: as ``plan`` made it from the datasets.
        dataset: where the pixels are.
        encoder: encodes.
        cache: where to.
        regularisation: as in ``plan``.
        emit: takes Phase events.
        stop: polled between two encodings.
        share: which of the entries this process encodes, where several fill a cache together.

    Raises:
        CacheError: an encoding is not finite, or cannot be written.
        StoppedWhilePreparing: ``stop`` said so.
    """

    def check() -> None:
        if stop():
            raise StoppedWhilePreparing

    wanted = set(job.cache_entries())
    captions = {key: text for key, text in job.captions().items() if ("conditioning", key) in wanted}
    own = list(captions.items())[share]  # of all, not of what is missing: that changes while others encode
    missing = {key: caption for key, caption in own if not cache.has("conditioning", key)}
    with Behind(partial(_store, cache)) as store:
        rest, done = iter(missing.items()), 0
        while batch := dict(islice(rest, encoder.texts_at_once)):
            check()
            emit(Phase("encoding captions", done, len(missing)))
            store("conditioning", dict(zip(batch, encoder.encode_texts([*batch.values()]), strict=True)))
            done += len(batch)

    images = {image.id: image for image in dataset.items}
    images |= {REGULARISATION + image.id: image for image in (regularisation.items if regularisation else ())}
    pictures: dict[str, tuple[ImageItem, bool]] = {}
    for item in job.items:
        pictures.setdefault(item.latents, (images[item.id], False))
        if item.flipped:
            pictures.setdefault(item.flipped, (images[item.id], True))
    lacking = [(key, *picture) for key, picture in list(pictures.items())[share] if not cache.has("latents", key)]
    # A picture and its mirror image lie side by side: they are decoded once. And so do pictures of one size.
    together = [list(group) for _, group in groupby(lacking, key=lambda one: one[1])]
    together.sort(key=lambda group: group[0][1].bucket)
    done = 0
    with (
        closing(ahead(lambda group: _decoded(group[0][1]), together, threads())) as decoded,
        Behind(partial(_store, cache)) as store,
    ):
        for several in _batches(decoded, encoder):
            check()
            emit(Phase("encoding images", done, len(lacking)))
            latents = encoder.encode_images(torch.stack([picture.pixels for picture in several])).split(1)
            store("latents", {picture.key: picture.entry(own) for picture, own in zip(several, latents, strict=True)})
            done += len(several)
    if missing or lacking:
        cache.trim(wanted)


def _store(cache: Cache, kind: Kind, entries: Mapping[str, dict[str, torch.Tensor]]) -> None:
    for key, tensors in entries.items():
        cache.store(kind, key, tensors)


def _decoded(image: ImageItem) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As ``load_both``, of the very picture that was scanned."""
    both = load_both(image)
    check_unchanged(image)  # afterwards: from the scan on it was this one
    return both


class _Picture(NamedTuple):
    """What is to be encoded: the key of its entry, pixels [3, H, W], and the mask [H, W] if it has one."""

    key: str
    pixels: torch.Tensor
    mask: torch.Tensor | None

    def mirrored(self) -> _Picture:
        """The same, left and right exchanged."""
        return _Picture(self.key, self.pixels.flip(-1), self.mask if self.mask is None else self.mask.flip(-1))

    def entry(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """``latents`` [1, C, h, w], and where there is a mask, ``mask`` [1, 1, h, w] in 0..1."""
        own = {"latents": latents.clone()}  # not with all of its batch
        if self.mask is None:
            return own
        return own | {"mask": interpolate(self.mask[None, None], size=latents.shape[-2:], mode="area")}


def _batches(
    decoded: Iterable[tuple[list[tuple[str, ImageItem, bool]], tuple[torch.Tensor, torch.Tensor | None]]],
    encoder: Encoder,
) -> Iterator[list[_Picture]]:
    """Decoded pictures, each as it is to be encoded, in batches of one size."""
    batch: list[_Picture] = []
    for group, (pixels, mask) in decoded:
        for key, _, flip in group:
            if batch and batch[0].pixels.shape != pixels.shape:
                yield batch
                batch = []
            picture = _Picture(key, pixels, mask)
            batch.append(picture.mirrored() if flip else picture)
            if len(batch) >= encoder.images_at_once(pixels[0].numel()):
                yield batch
                batch = []
    if batch:
        yield batch


def _variants(image: ImageItem, config: TrainConfig) -> tuple[str, ...]:
    if not config.caption_shuffle:
        return image.captions
    return shuffled(
        image.captions, trigger_word=config.trigger_word, keep=config.keep_tokens, seed=config.seed, sample=image.id
    )


def _held_out(images: Sequence[ImageItem], config: TrainConfig) -> set[str]:
    """Ids to hold out: drawn by content, with all that looks alike, so that no picture is on both sides.

    Of pictures that look alike those that are most of the data set are never held out.
    """
    count = config.validation_images
    if not count:
        return set()
    every = alike(images)
    groups = [group for group in every if len(group) <= len(images) / 2]
    if count > len(groups) - (len(groups) == len(every)):  # something must be left
        raise DatasetError(
            f"validation_images: {count} cannot be held out of {len(every)} different images",
            "hold out fewer, or add images",
        )
    order = sorted(groups, key=lambda group: min(draws.uniform(config.seed, "hold out", i.content) for i in group))
    return {image.id for group in order[:count] for image in group}


def _shared_out(images: Sequence[ImageItem], shown: int, seed: int) -> list[tuple[ImageItem, int]]:
    """Regularisation images with their repeats: together they are shown as often as the images proper.

    Where there are more of them than that, some are not used.
    """
    order = sorted(images, key=lambda image: draws.uniform(seed, "regularisation", image.id))
    each, more = divmod(shown, len(order))
    return [(image, each + (place < more)) for place, image in enumerate(order) if each or place < more]


def _generic(config: TrainConfig, items: Sequence[Item]) -> list[tuple[str, str]]:
    """A few images that are trained on, and what is to stay as it was: the class prompt, or their captions without the
    trigger word. (Without either it is the captions themselves, and what has moved there is what was learnt.)
    """
    if not config.validation_steps:
        return []
    own = [item for item in items if not item.held_out and not item.regular]
    chosen = sorted(own, key=lambda item: draws.uniform(config.seed, "class prompt", item.id))[:CLASS_PROMPTS]
    given = config.class_prompt.strip()
    return [(item.id, given or without(item.captions[0], config.trigger_word)) for item in chosen]


def _prompts(config: TrainConfig, base: Base, items: Sequence[Item]) -> list[SamplePrompt]:
    """The configured prompts; else three captions, what the images show without the trigger word, and the canary."""
    if config.sample_prompts:  # may be drawn on request, whatever sample_every says
        return list(config.sample_prompts)
    if not config.sample_every:
        return []
    own = [item for item in items if not item.held_out and not item.regular]
    chosen = list(dict.fromkeys(item.captions[0] for item in own))[:CAPTIONS_SAMPLED]
    plain = config.class_prompt.strip() or without(chosen[0], config.trigger_word)
    far = canary(base.family, base.file, (caption for item in items for caption in item.captions))
    return [SamplePrompt(prompt=prompt) for prompt in dict.fromkeys([*chosen, *[plain] * bool(plain), far])]
