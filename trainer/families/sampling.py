"""The noise levels of Stable Diffusion, and drawing a picture through them as ComfyUI's KSampler does."""

from __future__ import annotations

from collections.abc import Callable

import torch

# What ComfyUI leaves of the signal where there should be none (comfy.model_sampling), so that levels stay finite.
_TERMINAL = 4.8973451890853435e-08


def alphas_cumprod(zero_terminal_snr: bool = False) -> torch.Tensor:
    """Scaled-linear betas from 0.00085 to 0.012 over 1000 steps, as the product of the alphas: [1000], fp64, falling.

    With zero terminal SNR the roots are shifted and scaled so that the last is zero (Lin et al., arXiv 2305.08891,
    algorithm 1).
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1.0 - betas, dim=0)
    if zero_terminal_snr:
        roots = alphas.sqrt()
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        alphas = roots**2
        alphas[-1] = _TERMINAL
    return alphas


def euler(
    denoise: Callable[[torch.Tensor, int], torch.Tensor],
    shape: tuple[int, ...],
    *,
    steps: int,
    seed: int,
    device: torch.device,
    prediction: str = "epsilon",
    zero_terminal_snr: bool = False,
) -> torch.Tensor:
    """Euler's method (Karras et al., arXiv 2206.00364) with ComfyUI's scheduler ``normal``.

    Noise and steps are those of ComfyUI's KSampler, so the same seed gives the same picture there. diffusers' scheduler
    spaces its levels differently.

    Args:
        denoise: the model's guided prediction for noised latents (of variance one) and a timestep, both of ``shape``.
        shape: of the latents.
        steps: evaluations of the model.
        seed: of the noise.
        device: where the latents are kept.
        prediction: ``epsilon`` or ``v_prediction`` (Salimans and Ho, arXiv 2202.00512).
        zero_terminal_snr: which noise levels there are.

    Returns:
        latents as the model sees them, fp32.
    """
    timesteps, levels = _levels(steps, zero_terminal_snr)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    latents = noise.to(device) * (levels[0] ** 2 + 1) ** 0.5
    for timestep, level, following in zip(timesteps, levels[:-1], levels[1:], strict=True):
        variance = level**2 + 1
        predicted = denoise(latents / variance**0.5, timestep)
        if prediction == "v_prediction":
            clean = latents / variance - predicted * level / variance**0.5
        else:
            clean = latents - predicted * level
        latents = latents + (latents - clean) / level * (following - level)
    return latents


def _levels(steps: int, zero_terminal_snr: bool) -> tuple[list[int], list[float]]:
    """Timesteps, and the noise levels before and after each; a level between two is interpolated by its log."""
    alphas = alphas_cumprod(zero_terminal_snr)
    logs = ((1 - alphas) / alphas).sqrt().log().float()
    spread = torch.linspace(999, 0, steps)
    low, part = spread.floor().long(), spread.frac()
    levels = ((1 - part) * logs[low] + part * logs[spread.ceil().long()]).exp()
    # The model is told the step whose level is nearest: of two, which of them is a matter of rounding (fp32, as there).
    timesteps = (levels.log() - logs[:, None]).abs().argmin(dim=0)
    return timesteps.tolist(), [*levels.tolist(), 0.0]
