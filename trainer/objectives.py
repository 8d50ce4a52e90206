"""What the denoiser is asked for, and how far off it is: noising, targets, weights, losses. Only here."""

from __future__ import annotations

from typing import Literal

import torch

from . import draws
from .config import TrainConfig

Prediction = Literal["epsilon", "v_prediction"]


class Objective:
    """A discrete diffusion objective.

    - *Epsilon*: predict the noise (DDPM; Ho et al. 2020, arXiv 2006.11239, eq. 14).
    - *v-prediction*: predict ``sqrt(a) eps - sqrt(1 - a) x`` (Salimans and Ho 2022, arXiv 2202.00512).

    Args:
        alphas_cumprod: [T] the base model's noise schedule.
        prediction: what the base model predicts.
        config: noise_offset, min_snr_gamma, loss_type, huber_delta, mask_outside, seed.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, prediction: str, config: TrainConfig) -> None:
        self._alphas = alphas_cumprod.float()
        self._v = prediction == "v_prediction"
        self._config = config
        self._gamma = config.gamma(prediction)

    @property
    def steps(self) -> int:
        """Number of timesteps."""
        return len(self._alphas)

    def timestep(self, epoch: int | str, sample: str) -> int:
        """The timestep of a sample in an epoch, uniform over the schedule."""
        return draws.integer(self.steps, self._config.seed, epoch, sample, "timestep")

    def noise(self, shape: tuple[int, ...], epoch: int | str, sample: str) -> torch.Tensor:
        """The noise [C, h, w] of a sample in an epoch, fp32 on the CPU.

        With ``noise_offset`` so much of a constant per channel is added (N. Guttenberg, "Diffusion with offset noise",
        2023).
        """
        seed, offset = self._config.seed, self._config.noise_offset
        noise = draws.normal(shape, seed, epoch, sample, "noise")
        if offset:
            noise += offset * draws.normal((shape[0], 1, 1), seed, epoch, sample, "noise offset")
        return noise

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """sqrt(a) x + sqrt(1 - a) eps, for latents and noise [B, C, h, w] and timestep [B]."""
        signal, rest = self._levels(latents, timestep)
        return signal * latents + rest * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the denoiser should say, [B, C, h, w]."""
        if not self._v:
            return noise
        signal, rest = self._levels(latents, timestep)
        return signal * noise - rest * latents

    def loss(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        timestep: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of each sample, [B], in fp32.

        Args:
            prediction: [B, C, h, w].
            target: [B, C, h, w].
            timestep: [B].
            mask: [B, 1, h, w] in 0..1: where the loss counts; elsewhere it weighs ``mask_outside``. Each sample's mean
                is over its own weights, so that a small mask is no small loss.
        """
        error = self.error(prediction, target)
        if mask is None:
            loss = error.flatten(1).mean(1)
        else:
            outside = self._config.mask_outside
            weight = (outside + (1 - outside) * mask.float()).expand_as(error)
            loss = (weight * error).flatten(1).sum(1) / weight.flatten(1).sum(1)
        return loss * self.weight(timestep) if self._gamma else loss

    def error(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The error of each number, in fp32: squared, or by pseudo-Huber.

        ``2 d (sqrt(e^2 + d^2) - d)`` is the square for errors e far below ``huber_delta`` d, and straight far above
        (Charbonnier et al. 1997; for diffusion: Khrapov et al. 2024, arXiv 2403.16728).
        """
        difference = prediction.float() - target.float()
        if self._config.loss_type == "mse":
            return difference.square()
        delta = self._config.huber_delta
        return 2 * delta * ((difference.square() + delta**2).sqrt() - delta)

    def weight(self, timestep: torch.Tensor) -> torch.Tensor:
        """min(snr, gamma) / snr for epsilon, / (snr + 1) for v, [B] (min-SNR; Hang et al., arXiv 2303.09556)."""
        alpha = self._at(timestep)
        snr = alpha / (1 - alpha)
        return snr.clamp(max=self._gamma) / (snr + 1 if self._v else snr)

    def _levels(self, latents: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = self._at(timestep).view(-1, *[1] * (latents.ndim - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def _at(self, timestep: torch.Tensor) -> torch.Tensor:
        self._alphas = self._alphas.to(timestep.device)  # once; later it is there
        return self._alphas[timestep]
