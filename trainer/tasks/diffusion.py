"""Images: a batch of cached latents and conditioning, and the denoiser's loss on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import torch
from torch import nn

from .. import draws
from ..cache import Cache
from ..dataset.sampler import Presentation
from ..errors import RunError
from ..families import Family
from ..job import Item, Job
from ..objectives import EpsilonObjective

# Mid-points of four equal parts of the schedule: each says how well one band of noise is handled.
VALIDATION_TIMESTEPS = (125, 375, 625, 875)
VALIDATION_IMAGES = 4


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket: latents (scaled) and noise [B, C, h, w], timestep [B], conditioning by name."""

    latents: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    conditioning: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            self.latents.to(device, non_blocking=True),
            self.noise.to(device, non_blocking=True),
            self.timestep.to(device, non_blocking=True),
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.conditioning.items()},
        )


class Diffusion:
    """The task of a diffusion model with cached latents and conditioning.

    Args:
        job: what is trained.
        family: of the denoiser.
        cache: filled for the job.
        device: where the losses are computed.
    """

    def __init__(self, job: Job, family: Family, cache: Cache, device: torch.device) -> None:
        self._job, self._family, self._cache, self._device = job, family, cache, device
        self._objective = EpsilonObjective(
            family.noise_schedule().to(device), noise_offset=job.config.noise_offset, seed=job.config.seed
        )

    def batch(self, window: Sequence[Presentation], epoch: int) -> Batch:
        """The samples of a window (or a slice of it), with their draws for this epoch."""
        seed, dropout = self._job.config.seed, self._job.config.caption_dropout
        rows = []
        for shown in window:
            variant = draws.integer(len(shown.item.conditioning), seed, epoch, shown.key, "caption")
            dropped = draws.uniform(seed, epoch, shown.key, "dropout") < dropout
            caption = self._job.empty if dropped else shown.item.conditioning[variant]
            rows.append((shown.item, caption, self._objective.timestep(epoch, shown.key), epoch, shown.key))
        return self._stack(rows)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of each sample, [B], fp32, with its graph."""
        target = self._objective.target(batch.latents, batch.noise, batch.timestep)
        return self._objective.loss(self._predict(model, batch), target)

    def check(self, model: nn.Module) -> None:
        """Makes sure that the model still denoises: what it predicts is finite, and not one number.

        Raises:
            RunError: it does not; a LoRA of such a model draws black or noise.
        """
        with torch.no_grad():
            prediction = self._predict(model, self._fixed(self._job.train_items[0], VALIDATION_TIMESTEPS[1])).float()
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
        images = (held_out or list(self._job.train_items))[: None if held_out else VALIDATION_IMAGES]
        total: dict[str, float] = {}
        with torch.no_grad():
            for timestep in VALIDATION_TIMESTEPS:
                losses = [self.loss(model, self._fixed(item, timestep)).sum().item() for item in images]
                total[str(timestep)] = sum(losses) / len(images)
        return ("held_out" if held_out else "train"), total

    def sample(self, model: nn.Module, index: int) -> torch.Tensor:
        """Latents [1, C, h, w], unscaled, of the job's prompt ``index``; the same noise every time."""
        config = self._job.config
        prompt = self._job.prompts[index]
        width, height = self._job.train_items[0].bucket
        with torch.no_grad():
            return self._family.sample(
                model,
                self._conditioning(prompt.conditioning),
                self._conditioning(self._job.empty),
                width=width,
                height=height,
                steps=config.sample_inference_steps,
                guidance=config.sample_guidance,
                seed=config.seed + index,
            )

    def _predict(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        noisy = self._objective.noisy(batch.latents, batch.noise, batch.timestep)
        return self._family.predict(model, noisy, batch.timestep, batch.conditioning)

    def _fixed(self, item: Item, timestep: int) -> Batch:
        row = (item, item.conditioning[0], timestep, "validation", f"{item.id}@{timestep}")
        return self._stack([row])

    def _stack(self, rows: Sequence[tuple[Item, str, int, int | str, str]]) -> Batch:
        family = self._family
        latents, noise = [], []
        for item, _, _, epoch, key in rows:
            unscaled = self._cache.load("latents", item.latents)["latents"]
            latents.append((unscaled[0] - family.latent_shift) * family.latent_scale)
            noise.append(self._objective.noise(tuple(latents[-1].shape), epoch, key))
        conditioning = [self._cache.load("conditioning", caption) for _, caption, _, _, _ in rows]
        return Batch(
            torch.stack(latents),
            torch.stack(noise),
            torch.tensor([timestep for _, _, timestep, _, _ in rows]),
            stack_conditioning(conditioning),
        ).to(self._device)

    def _conditioning(self, key: str) -> dict[str, torch.Tensor]:
        entry = self._cache.load("conditioning", key)
        return {name: tensor.to(self._device) for name, tensor in entry.items()}


def stack_conditioning(entries: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Conditioning [1, T_i, D] of several samples as [B, T, D].

    Different lengths are brought together by repeating to their least common multiple, as ComfyUI does
    (``comfy.conds.CONDCrossAttn``): repeated tokens leave the result of attention as it was, zeros would not.
    """
    stacked = {}
    for name in entries[0]:
        tensors = [entry[name] for entry in entries]
        if tensors[0].ndim == 3:
            length = lcm(*(tensor.shape[1] for tensor in tensors))
            tensors = [tensor.repeat(1, length // tensor.shape[1], 1) for tensor in tensors]
        stacked[name] = torch.cat(tensors)
    return stacked
