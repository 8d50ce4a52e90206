"""What the denoiser is asked for, and how far off it is: noising, targets, losses. Only here."""

from __future__ import annotations

import torch

from . import draws


class EpsilonObjective:
    """Predict the noise (DDPM; Ho et al. 2020, arXiv 2006.11239, eq. 14).

    Args:
        alphas_cumprod: [T] the family's noise schedule.
        noise_offset: weight of a constant per sample and channel in the noise (N. Guttenberg, "Diffusion with offset
            noise", 2023); 0 for none.
        seed: the run's seed.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, *, noise_offset: float, seed: int) -> None:
        self._alphas = alphas_cumprod.float()
        self._noise_offset = noise_offset
        self._seed = seed

    @property
    def steps(self) -> int:
        """Number of timesteps."""
        return len(self._alphas)

    def timestep(self, epoch: int | str, sample: str) -> int:
        """The timestep of a sample in an epoch, uniform over the schedule."""
        return draws.integer(self.steps, self._seed, epoch, sample, "timestep")

    def noise(self, shape: tuple[int, ...], epoch: int | str, sample: str) -> torch.Tensor:
        """The noise [C, h, w] of a sample in an epoch, fp32 on the CPU."""
        noise = draws.normal(shape, self._seed, epoch, sample, "noise")
        if self._noise_offset:
            noise += self._noise_offset * draws.normal((shape[0], 1, 1), self._seed, epoch, sample, "noise offset")
        return noise

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """sqrt(a) x + sqrt(1 - a) eps, for latents and noise [B, C, h, w] and timestep [B]."""
        self._alphas = self._alphas.to(latents.device)  # once; later it is there
        alpha = self._alphas[timestep].view(-1, *[1] * (latents.ndim - 1))
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the denoiser should say, [B, C, h, w]."""
        return noise

    def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each sample, [B], in fp32."""
        return (prediction.float() - target.float()).square().flatten(1).mean(1)
