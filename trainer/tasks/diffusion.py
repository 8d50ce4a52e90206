"""Images: a batch of cached latents and conditioning, and the denoiser's loss on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from .. import adapters, draws
from ..cache import Cache
from ..dataset.buckets import cover
from ..dataset.sampler import Presentation
from ..device import onto
from ..errors import RunError
from ..events import DRIFT, HELD_OUT, TRAIN
from ..families import Encoders, Family
from ..families.conditioning import stack_conditioning
from ..job import Item, Job
from ..objectives import Objective

BANDS = 4
"""Equal parts of the schedule, of which each has a curve of its own."""
PAIRS, AT_LEAST = 16, 2
"""Pairs of image and timestep that a signal is measured on, and timesteps of an image."""
TRAIN_IMAGES = 8


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket.

    Args:
        latents: [B, C, h, w], scaled.
        noise: [B, C, h, w].
        timestep: [B].
        conditioning: by name, each [B, ...].
        weight: [B], of each sample's loss.
        mask: [B, 1, h, w] in 0..1, or None.
        prior: conditioning of the class prompt; empty without prior preservation.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    conditioning: dict[str, torch.Tensor]
    weight: torch.Tensor
    mask: torch.Tensor | None = None
    prior: dict[str, torch.Tensor] = field(default_factory=dict)

    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        named = [*self.conditioning.values(), *self.prior.values()]
        masks = [] if self.mask is None else [self.mask]
        return [self.latents, self.noise, self.timestep, self.weight, *masks, *named]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: move(tensor) for name, tensor in value.items()}
            return None if value is None else onto(value, device)

        return Batch(*(move(getattr(self, part.name)) for part in fields(self)))


@dataclass(frozen=True)
class _Row:
    """One sample: an image, the key of its caption, its timestep, and what names its draws."""

    item: Item
    caption: str
    timestep: int
    epoch: int | str
    key: str
    flipped: bool = False


class Diffusion:
    """The task of a diffusion model with cached latents, and conditioning that is cached or encoded anew.

    Args:
        job: what is trained.
        family: of the denoiser.
        cache: filled for the job.
        device: where the losses are computed.
        encoders: the text encoders, where they are trained; their outputs are then not from the cache.
        batch: images that are validated at once; 0: as many as a micro-batch has.
    """

    def __init__(
        self,
        job: Job,
        family: Family,
        cache: Cache,
        device: torch.device,
        encoders: Encoders | None = None,
        batch: int = 0,
    ) -> None:
        self._job, self._family, self._cache, self._device = job, family, cache, device
        self._encoders, self._texts = encoders, job.captions() if encoders is not None else {}
        schedule = family.noise_schedule(job.base.zero_terminal_snr).to(device)
        self._objective = Objective(schedule, job.base.prediction, job.config)
        self._batch = batch or job.config.batch_size
        self._before: dict[tuple[str, int], torch.Tensor] = {}  # of the batches that drift is measured on

    def batch(self, shown: Sequence[Presentation], epoch: int) -> Batch:
        """The samples of a window (or a slice of it), with their draws for this epoch."""
        seed, config = self._job.config.seed, self._job.config
        rows = []
        for one in shown:
            variant = draws.integer(len(one.item.conditioning), seed, epoch, one.key, "caption")
            dropped = draws.uniform(seed, epoch, one.key, "dropout") < config.caption_dropout
            caption = self._job.empty if dropped else one.item.conditioning[variant]
            flipped = bool(one.item.flipped) and draws.uniform(seed, epoch, one.key, "flip") < 0.5
            rows.append(_Row(one.item, caption, self._objective.timestep(epoch, one.key), epoch, one.key, flipped))
        return self._stack(rows)

    def size(self, window: Sequence[Presentation]) -> int:
        """The samples of a window."""
        return len(window)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of each sample, [B], fp32, with its graph."""
        target = self._objective.target(batch.latents, batch.noise, batch.timestep)
        noisy = self._objective.noisy(batch.latents, batch.noise, batch.timestep)
        prediction = self._family.predict(model, noisy, batch.timestep, batch.conditioning)
        loss = batch.weight * self._objective.loss(prediction, target, batch.timestep, batch.mask)
        if batch.prior:
            loss = loss + self._job.config.prior_preservation * self._drift(model, batch, noisy)
        return loss

    def check(self, model: nn.Module) -> None:
        """Makes sure that the model still denoises: what it predicts is finite, and not one number.

        Raises:
            RunError: it does not; a LoRA of such a model draws black or noise.
        """
        item = self._job.train_items[0]
        batch = self._stack([_fixed(item, item.conditioning[0], 3 * self._objective.steps // 8)])
        noisy = self._objective.noisy(batch.latents, batch.noise, batch.timestep)
        with torch.no_grad():
            prediction = self._family.predict(model, noisy, batch.timestep, batch.conditioning).float()
        finite = bool(torch.isfinite(prediction).all())
        if not finite or prediction.std() == 0:
            raise RunError(
                f"with this LoRA the model predicts {'the same everywhere' if finite else 'what is not finite'}; "
                "it is not saved",
                "lower learning_rate, or train with mixed_precision: bf16 or no",
            )

    def validate(self, model: nn.Module) -> Iterator[tuple[str, dict[str, float]]]:
        """The loss on images that are held out, if there are any, and on a few that are not; and the drift."""
        for signal, rows in validated(self._job, self._objective.steps).items():
            measure = self._drifted if signal == DRIFT else self._lost
            yield signal, {row.key: value for some in self._batches(rows) for row, value in measure(model, some)}

    def band(self, pair: str) -> str:
        """The timestep in the middle of the part of the schedule that a pair lies in."""
        number = int(pair.rpartition("@")[2]) * BANDS // self._objective.steps
        return str((2 * number + 1) * self._objective.steps // (2 * BANDS))

    def probe(self, model: nn.Module) -> None:
        """One evaluation of the largest image, and one of the largest sample; see ``Task``."""
        largest = max(self._job.items, key=lambda item: item.bucket[0] * item.bucket[1])
        rows = [_fixed(largest, largest.conditioning[0], self._objective.steps // 2)] * self._batch
        with torch.no_grad():
            self.loss(model, replace(self._stack(rows), prior={}))
        if self._job.prompts:
            self.sample(model, max(range(len(self._job.prompts)), key=self._sampled), steps=1)

    def sample(self, model: nn.Module, index: int, *, steps: int = 0) -> torch.Tensor:
        """Latents [1, C, h, w], unscaled, of the job's prompt ``index``; the same noise every time.

        Args:
            model: draws.
            index: of the prompt.
            steps: in place of the prompt's own; 0: its own.
        """
        config, prompt = self._job.config, self._job.prompts[index]
        width, height = self._job.train_items[0].bucket
        with torch.no_grad():
            wanted, negative = self._conditioning([prompt.conditioning, prompt.negative_conditioning])
            return self._family.sample(
                model,
                wanted,
                negative,
                width=prompt.width or width,
                height=prompt.height or height,
                steps=steps or prompt.steps or config.sample_inference_steps,
                guidance=prompt.guidance or config.sample_guidance,
                seed=config.seed + index if prompt.seed is None else prompt.seed,
                prediction=self._job.base.prediction,
                zero_terminal_snr=self._job.base.zero_terminal_snr,
            )

    def _sampled(self, index: int) -> int:
        """The pixels that the denoiser is given at once for a sample: guidance draws two pictures."""
        prompt, (width, height) = self._job.prompts[index], self._job.train_items[0].bucket
        twice = 1 if (prompt.guidance or self._job.config.sample_guidance) == 1.0 else 2
        return twice * (prompt.width or width) * (prompt.height or height)

    def _drift(self, model: nn.Module, batch: Batch, noisy: torch.Tensor) -> torch.Tensor:
        """How far the prediction for the class prompt is from what it was without the LoRA, [B].

        Prior preservation (Ruiz et al., DreamBooth, arXiv 2208.12242) without images of the class: the base model
        itself says what the class looks like.
        """
        with torch.no_grad(), self._base(model):
            before = self._family.predict(model, noisy, batch.timestep, self._class_before(batch))
        now = self._family.predict(model, noisy, batch.timestep, batch.prior)
        return self._objective.loss(now, before, batch.timestep)

    def _class_before(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The class prompt's conditioning by the text encoders as they are at the moment: without their adapters."""
        if self._encoders is None:
            return batch.prior
        (entry,) = self._conditioning([self._job.class_prompt])
        return batch.prior | {name: torch.cat([tensor] * len(batch.weight)) for name, tensor in entry.items()}

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of one bucket, as many as a micro-batch has: what fits there fits here."""
        by_bucket: dict[tuple[int, int], list[_Row]] = {}
        for row in rows:
            by_bucket.setdefault(row.item.bucket, []).append(row)
        for alike in by_bucket.values():
            yield from (alike[start : start + self._batch] for start in range(0, len(alike), self._batch))

    @torch.no_grad()
    def _lost(self, model: nn.Module, rows: list[_Row]) -> Iterator[tuple[_Row, float]]:
        """Each row's loss."""
        batch = replace(self._stack(rows), prior={})
        return zip(rows, self.loss(model, batch).tolist(), strict=True)

    @torch.no_grad()
    def _drifted(self, model: nn.Module, rows: list[_Row]) -> Iterator[tuple[_Row, float]]:
        """The mean square of what the LoRA has changed of the prediction for each row."""
        batch = self._stack(rows)
        noisy = self._objective.noisy(batch.latents, batch.noise, batch.timestep)
        key = rows[0].key, len(rows)
        if key not in self._before:  # the base model's prediction is the same every time
            with self._base(model):
                conditioning = batch.conditioning if self._encoders is None else self._stack(rows).conditioning
                self._before[key] = self._family.predict(model, noisy, batch.timestep, conditioning).float().cpu()
        now = self._family.predict(model, noisy, batch.timestep, batch.conditioning).float()
        moved = (now - self._before[key].to(now.device)).square().flatten(1).mean(1)
        return zip(rows, moved.tolist(), strict=True)

    @contextmanager
    def _base(self, model: nn.Module) -> Iterator[None]:
        """Within it the denoiser and the text encoders are the base model's."""
        with ExitStack() as stack:
            for adapted in (model, *(self._encoders.text_models.values() if self._encoders is not None else ())):
                stack.enter_context(adapters.disabled(adapted))
            yield

    def _stack(self, rows: Sequence[_Row]) -> Batch:
        family = self._family
        latents, noise, masks = [], [], []
        for row in rows:
            entry = self._cache.load("latents", row.item.flipped if row.flipped else row.item.latents)
            latents.append((entry["latents"][0] - family.latent_shift) * family.latent_scale)
            noise.append(self._objective.noise(tuple(latents[-1].shape), row.epoch, row.key))
            masks.append(entry["mask"][0] if "mask" in entry else torch.ones(1, *latents[-1].shape[1:]))
        sizes = [self._sizes(row) for row in rows]
        conditioning = self._conditioning([row.caption for row in rows])
        prior: dict[str, torch.Tensor] = {}
        if self._job.class_prompt:
            of_class = self._conditioning([self._job.class_prompt])[0]
            prior = stack_conditioning([{**of_class, **size} for size in sizes])
        return Batch(
            torch.stack(latents),
            torch.stack(noise),
            torch.tensor([row.timestep for row in rows]),
            stack_conditioning([{**one, **size} for one, size in zip(conditioning, sizes, strict=True)]),
            torch.tensor([row.item.weight for row in rows]),
            torch.stack(masks) if self._job.config.mask != "no" else None,
            prior,
        ).to(self._device)

    def _sizes(self, row: _Row) -> dict[str, torch.Tensor]:
        """What the denoiser is told of the picture's size, where it is told."""
        resized, (left, top) = cover(row.item.size, row.item.bucket)
        if row.flipped:
            left = resized[0] - row.item.bucket[0] - left
        return self._family.size_conditioning(row.item.size, (left, top), row.item.bucket)

    def _conditioning(self, keys: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """What the text encoders give for captions, each [1, ...]: from the cache, or anew with a graph."""
        if self._encoders is None:
            return [self._cache.load("conditioning", key) for key in keys]
        return self._encoders.conditioning([self._encoders.tokenize(self._texts[key]) for key in keys])


def validated(job: Job, steps: int) -> dict[str, list[_Row]]:
    """What a validation measures: signal -> images, captions and timesteps.

    Args:
        job: what is trained.
        steps: of the noise schedule.
    """
    own = sorted((item for item in job.train_items if not item.regular), key=lambda item: item.id)
    chosen = sorted(own, key=lambda item: draws.uniform(job.config.seed, "validate", item.id))[:TRAIN_IMAGES]
    held_out = [item for item in job.items if item.held_out]
    by_id = {item.id: item for item in own}
    generic = [(by_id[one.image], one.conditioning) for one in job.class_prompts]
    found = {
        HELD_OUT: _spread([(item, item.conditioning[0]) for item in held_out], steps),
        TRAIN: _spread([(item, item.conditioning[0]) for item in chosen], steps),
        DRIFT: _spread(generic, steps, PAIRS // 2),
    }
    return {signal: rows for signal, rows in found.items() if rows}


def _spread(shown: Sequence[tuple[Item, str]], steps: int, pairs: int = PAIRS) -> list[_Row]:
    """Images with their captions at timesteps that cover the schedule evenly, for each image and all together."""
    each = max(AT_LEAST, -(-pairs // len(shown))) if shown else 0
    return [
        _fixed(item, caption, int(steps * (number + (place + 0.5) / len(shown)) / each))
        for place, (item, caption) in enumerate(shown)
        for number in range(each)
    ]


def _fixed(item: Item, caption: str, timestep: int) -> _Row:
    return _Row(item, caption, timestep, "validation", f"{item.id}@{timestep}")
