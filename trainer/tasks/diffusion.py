"""Images: a batch of cached latents and conditioning, and the denoiser's loss on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from .. import adapters, draws
from ..cache import Cache
from ..dataset.buckets import cover
from ..dataset.sampler import Presentation
from ..errors import RunError
from ..families import Encoders, Family
from ..families.conditioning import stack_conditioning
from ..job import Item, Job
from ..objectives import Objective

# Mid-points of four equal parts of the schedule: each says how well one band of noise is handled.
VALIDATION_TIMESTEPS = (125, 375, 625, 875)
VALIDATION_IMAGES = 4


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

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: move(tensor) for name, tensor in value.items()}
            return None if value is None else value.to(device, non_blocking=True)

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
    """

    def __init__(
        self,
        job: Job,
        family: Family,
        cache: Cache,
        device: torch.device,
        encoders: Encoders | None = None,
    ) -> None:
        self._job, self._family, self._cache, self._device = job, family, cache, device
        self._encoders, self._texts = encoders, job.texts() if encoders is not None else {}
        schedule = family.noise_schedule(job.base.zero_terminal_snr).to(device)
        self._objective = Objective(schedule, job.base.prediction, job.config)

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
        batch = self._fixed(self._job.train_items[0], VALIDATION_TIMESTEPS[1])
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

    def validate(self, model: nn.Module) -> tuple[str, dict[str, float]]:
        """The loss on fixed images, noise and timesteps: the signal's name, and the loss by timestep."""
        held_out = [item for item in self._job.items if item.held_out]
        own = [item for item in self._job.train_items if not item.regular]
        images = held_out or own[:VALIDATION_IMAGES]
        total: dict[str, float] = {}
        with torch.no_grad():
            for timestep in VALIDATION_TIMESTEPS:
                losses = [self.loss(model, self._fixed(item, timestep)).sum().item() for item in images]
                total[str(timestep)] = sum(losses) / len(images)
        return ("held_out" if held_out else "train"), total

    def probe(self, model: nn.Module) -> None:
        """One evaluation of the largest image, and one of the largest sample; see ``Task``."""
        largest = max(self._job.items, key=lambda item: item.bucket[0] * item.bucket[1])
        with torch.no_grad():
            self.loss(model, self._fixed(largest, VALIDATION_TIMESTEPS[1]))
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
        with torch.no_grad(), ExitStack() as stack:
            for adapted in (model, *(self._encoders.text_models.values() if self._encoders is not None else ())):
                stack.enter_context(adapters.disabled(adapted))
            before = self._family.predict(model, noisy, batch.timestep, self._class_before(batch))
        now = self._family.predict(model, noisy, batch.timestep, batch.prior)
        return self._objective.loss(now, before, batch.timestep)

    def _class_before(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The class prompt's conditioning by the text encoders as they are at the moment: without their adapters."""
        if self._encoders is None:
            return batch.prior
        (entry,) = self._conditioning([self._job.class_prompt])
        return batch.prior | {name: torch.cat([tensor] * len(batch.weight)) for name, tensor in entry.items()}

    def _fixed(self, item: Item, timestep: int) -> Batch:
        row = _Row(item, item.conditioning[0], timestep, "validation", f"{item.id}@{timestep}")
        return replace(self._stack([row]), prior={})

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
            entries = [self._cache.load("conditioning", key) for key in keys]
        else:
            entries = self._encoders.conditioning([self._encoders.tokenize(self._texts[key]) for key in keys])
        return [{name: tensor.to(self._device) for name, tensor in entry.items()} for entry in entries]
