"""The objectives against diffusers and their own formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer import draws, families
from trainer.config import parse
from trainer.objectives import Objective


def betas_to_alphas() -> torch.Tensor:
    """SD1.5's schedule, written out."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


ZERO = torch.tensor([0])


def objective(prediction: str = "epsilon", zero_terminal_snr: bool = False, **config: Any) -> Objective:
    schedule = families.get("sd15").noise_schedule(zero_terminal_snr)
    return Objective(schedule, prediction, parse(config))


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
    loss = objective().loss(prediction, target, torch.tensor([0, 500, 999]))
    assert loss.shape == (3,)
    for row in range(3):
        expected = torch.nn.functional.mse_loss(prediction[row], target[row])
        assert loss[row].item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(objective().loss(target, target, torch.tensor([0, 1, 2])), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_in_fp32_whatever_the_prediction(dtype: torch.dtype) -> None:
    prediction = torch.full((1, 4, 8, 8), 300.0, dtype=dtype)  # its square overflows fp16
    loss = objective().loss(prediction, torch.zeros(1, 4, 8, 8, dtype=dtype), ZERO)
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


# --- v-prediction, zero terminal SNR


def test_the_velocity_is_diffusers_own() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    latents, noise = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    timestep = torch.tensor([0, 500, 999])
    expected = scheduler.get_velocity(latents, noise, timestep)  # type: ignore[arg-type]
    found = objective("v_prediction").target(latents, noise, timestep)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_latents_and_noise_come_back_from_what_is_seen_and_the_velocity() -> None:
    mine = objective("v_prediction")
    latents, noise = normal(3, 4, 8, 8).double(), normal(3, 4, 8, 8, seed=1).double()
    timestep = torch.tensor([0, 500, 999])
    alpha = betas_to_alphas()[timestep].view(-1, 1, 1, 1)
    seen, velocity = mine.noisy(latents, noise, timestep), mine.target(latents, noise, timestep)
    assert torch.allclose(alpha.sqrt() * seen - (1 - alpha).sqrt() * velocity, latents, atol=1e-5)
    assert torch.allclose((1 - alpha).sqrt() * seen + alpha.sqrt() * velocity, noise, atol=1e-5)


def test_with_zero_terminal_snr_the_last_step_is_noise_and_its_velocity_is_minus_the_picture() -> None:
    mine = objective("v_prediction", zero_terminal_snr=True)
    latents, noise, last = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1), torch.tensor([999])
    assert torch.allclose(mine.noisy(latents, noise, last), noise, atol=1e-3)
    assert torch.allclose(mine.target(latents, noise, last), -latents, atol=1e-3)
    loss = objective("v_prediction", True, min_snr_gamma=5.0).loss(latents, noise, last)
    assert torch.isfinite(loss).all()


# --- weights


def snr(timestep: int) -> float:
    alpha = float(betas_to_alphas()[timestep])
    return alpha / (1 - alpha)


@pytest.mark.parametrize("timestep", [0, 100, 500, 999])
def test_min_snr_weighs_as_the_paper_says(timestep: int) -> None:
    at = torch.tensor([timestep])
    capped = min(snr(timestep), 5.0)
    assert objective(min_snr_gamma=5.0).weight(at).item() == pytest.approx(capped / snr(timestep), rel=1e-4)
    assert objective("v_prediction").weight(at).item() == pytest.approx(capped / (snr(timestep) + 1), rel=1e-4)


def test_min_snr_is_on_for_v_and_off_for_epsilon_unless_said_otherwise() -> None:
    prediction, target, at = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1), torch.tensor([10])
    plain = (prediction - target).square().mean().item()

    def loss(*args: Any, **config: Any) -> float:
        return objective(*args, **config).loss(prediction, target, at).item()

    assert loss() == loss("v_prediction", min_snr_gamma=0.0) == pytest.approx(plain, rel=1e-6)
    assert loss("v_prediction") == pytest.approx(plain * 5 / (snr(10) + 1), rel=1e-4)
    assert loss(min_snr_gamma=5.0) == pytest.approx(plain * 5 / snr(10), rel=1e-4)
    assert loss("v_prediction", min_snr_gamma=2.0) == pytest.approx(plain * 2 / (snr(10) + 1), rel=1e-4)


def test_huber_is_square_for_small_errors_and_straight_for_large_ones() -> None:
    mine = objective(loss_type="huber", huber_delta=0.1)
    zero = torch.zeros(1, 1, 1, 1)
    assert mine.error(zero + 1e-3, zero).item() == pytest.approx(1e-6, rel=1e-3)
    assert mine.error(zero + 100, zero).item() == pytest.approx(2 * 0.1 * 100, rel=1e-2)
    assert mine.error(zero + 200, zero).item() / mine.error(zero + 100, zero).item() == pytest.approx(2, rel=1e-2)
    wide = objective(loss_type="huber", huber_delta=100.0)
    assert wide.error(zero + 0.5, zero).item() == pytest.approx(0.25, rel=1e-2)


# --- masks


def test_a_mask_s_loss_is_the_mean_over_its_own_weights() -> None:
    prediction, target = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :2, :2] = 1
    mask[1] = 0.5
    loss = objective(mask_outside=0.1).loss(prediction, target, torch.tensor([0, 999]), mask)
    squares = (prediction - target).double().square()
    weight = (0.1 + 0.9 * mask).expand_as(squares).double()
    expected = (weight * squares).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    assert torch.allclose(loss.double(), expected, rtol=1e-6)
    assert loss[1].item() == pytest.approx(squares[1].mean().item(), rel=1e-6)  # an even mask is none
    inside = objective(mask_outside=0.0).loss(prediction, target, torch.tensor([0, 999]), mask)[0]
    assert inside.item() == pytest.approx(squares[0, :, :2, :2].mean().item(), rel=1e-5)


def test_a_gradient_under_a_mask_is_only_where_it_is_white() -> None:
    prediction = normal(1, 4, 8, 8).requires_grad_()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    objective(mask_outside=0.0).loss(prediction, torch.zeros(1, 4, 8, 8), ZERO, mask).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad[..., :4].abs().min() > 0
    assert prediction.grad[..., 4:].abs().max() == 0
