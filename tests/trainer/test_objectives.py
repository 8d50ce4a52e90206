"""The epsilon objective against diffusers and its own formulas."""

from __future__ import annotations

import pytest
import torch

from trainer import draws, families
from trainer.objectives import EpsilonObjective


def betas_to_alphas() -> torch.Tensor:
    """SD1.5's schedule, written out."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def objective(noise_offset: float = 0.0, seed: int = 42) -> EpsilonObjective:
    return EpsilonObjective(families.get("sd15").noise_schedule(), noise_offset=noise_offset, seed=seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noising_is_diffusers_own() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    latents, noise = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    timestep = torch.tensor([0, 500, 999])
    expected = scheduler.add_noise(latents, noise, timestep)  # type: ignore[arg-type]
    assert torch.allclose(objective().noisy(latents, noise, timestep), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_noising_is_the_formula(timestep: int) -> None:
    latents, noise = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    alpha = betas_to_alphas()[timestep]
    expected = alpha.sqrt() * latents.double() + (1 - alpha).sqrt() * noise.double()
    found = objective().noisy(latents, noise, torch.tensor([timestep]))
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == torch.float32


def test_each_sample_has_its_own_timestep() -> None:
    latents, noise = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    both = objective().noisy(latents, noise, torch.tensor([3, 800]))
    for row, timestep in enumerate((3, 800)):
        alone = objective().noisy(latents[row : row + 1], noise[row : row + 1], torch.tensor([timestep]))
        assert torch.equal(both[row], alone[0])


def test_the_schedule_goes_where_the_latents_are() -> None:
    mine = objective()
    latents = torch.empty(1, 4, 8, 8, device="meta")
    assert mine.noisy(latents, latents, torch.empty(1, dtype=torch.int64, device="meta")).is_meta


def test_the_target_is_the_noise() -> None:
    latents, noise = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    assert torch.equal(objective().target(latents, noise, torch.tensor([3, 800])), noise)


def test_the_loss_is_the_mean_squared_error_of_each_sample() -> None:
    prediction, target = normal(3, 4, 8, 6), normal(3, 4, 8, 6, seed=1)
    loss = objective().loss(prediction, target)
    assert loss.shape == (3,)
    for row in range(3):
        expected = torch.nn.functional.mse_loss(prediction[row], target[row])
        assert loss[row].item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(objective().loss(target, target), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_in_fp32_whatever_the_prediction(dtype: torch.dtype) -> None:
    prediction = torch.full((1, 4, 8, 8), 300.0, dtype=dtype)  # its square overflows fp16
    loss = objective().loss(prediction, torch.zeros(1, 4, 8, 8, dtype=dtype))
    assert loss.dtype == torch.float32
    assert loss.item() == 90_000


def test_timesteps_are_drawn_evenly_from_the_whole_schedule() -> None:
    drawn = [objective().timestep(epoch, f"image {n}") for epoch in range(4) for n in range(1000)]
    assert min(drawn) >= 0
    assert max(drawn) <= 999
    assert len(set(drawn)) > 950
    counts = torch.histc(torch.tensor(drawn, dtype=torch.float32), 10, 0, 1000)
    assert ((counts - 400).square() / 400).sum() < 28  # chi-square, 9 degrees: one in a thousand


def test_timestep_and_noise_are_the_run_s_own_draws() -> None:
    one, other = objective(seed=1), objective(seed=2)
    assert one.timestep(3, "x#0") == draws.integer(1000, 1, 3, "x#0", "timestep")
    assert torch.equal(one.noise((4, 8, 8), 3, "x#0"), draws.normal((4, 8, 8), 1, 3, "x#0", "noise"))
    assert not torch.equal(one.noise((4, 8, 8), 3, "x#0"), other.noise((4, 8, 8), 3, "x#0"))
    assert not torch.equal(one.noise((4, 8, 8), 3, "x#0"), one.noise((4, 8, 8), 4, "x#0"))


def test_noise_offset_adds_a_constant_per_channel() -> None:
    plain, offset = objective(), objective(noise_offset=0.5)
    difference = offset.noise((4, 8, 8), 0, "x") - plain.noise((4, 8, 8), 0, "x")
    expected = 0.5 * draws.normal((4, 1, 1), 42, 0, "x", "noise offset")
    assert torch.allclose(difference, expected.expand(4, 8, 8), atol=1e-6)
    assert len(set(expected.flatten().tolist())) == 4


def test_the_schedule_is_sd15_s() -> None:
    assert objective().steps == 1000
    assert torch.allclose(families.get("sd15").noise_schedule().double(), betas_to_alphas(), rtol=1e-6)
