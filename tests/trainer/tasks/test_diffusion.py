"""What a batch is and what its loss is, with a family that writes down what it was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from trainer import draws
from trainer.cache import Cache
from trainer.config import parse
from trainer.dataset.sampler import Presentation, windows
from trainer.errors import CacheError
from trainer.job import Base, Item, Job, Prompt
from trainer.tasks.diffusion import VALIDATION_TIMESTEPS, Batch, Diffusion, stack_conditioning

SCALE, SHIFT = 0.5, 0.25
CPU = torch.device("cpu")


class Family:
    """Predicts the mean of the conditioning plus ``model.weight`` times what it sees."""

    latent_scale, latent_shift = SCALE, SHIFT

    def __init__(self) -> None:
        self.predicted: list[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]] = []
        self.sampled: list[dict[str, Any]] = []

    def noise_schedule(self) -> torch.Tensor:
        return torch.linspace(0.999, 0.005, 1000)

    def predict(
        self, model: Any, noisy: torch.Tensor, timestep: torch.Tensor, conditioning: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        self.predicted.append((noisy, timestep, conditioning))
        return model.weight * noisy + conditioning["hidden"].mean((1, 2))[:, None, None, None]

    def sample(self, model: Any, conditioning: Any, negative: Any, **settings: Any) -> torch.Tensor:
        self.sampled.append({"conditioning": conditioning, "negative": negative, **settings})
        return torch.zeros(1, 4, settings["height"] // 8, settings["width"] // 8)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents_of(number: int, bucket: tuple[int, int]) -> torch.Tensor:
    return normal(1, 4, bucket[1] // 8, bucket[0] // 8, seed=number)


def hidden_of(key: str) -> torch.Tensor:
    return torch.full((1, 77, 2), float(len(key)))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "c\u00e4che \u7f13\u5b58")


@pytest.fixture
def family() -> Family:
    return Family()


def job_of(cache: Cache, count: int = 3, *, bucket: tuple[int, int] = (64, 128), captions: int = 1, held_out: int = 0,
           **config: Any) -> Job:  # fmt: skip
    """A job whose cache is filled."""
    items = []
    for number in range(count):
        keys = tuple(f"caption {number} {variant}" for variant in range(captions))
        items.append(
            Item(f"{number:032x}", f"{number}.png", keys, bucket, 1, f"latents {number}", keys, number < held_out)
        )
        cache.store("latents", f"latents {number}", {"latents": latents_of(number, bucket)})
        for key in keys:
            cache.store("conditioning", key, {"hidden": hidden_of(key)})
    prompts = (Prompt("a house", "prompt 0"), Prompt("a tree", "prompt one"))
    for key in ("", *(p.conditioning for p in prompts)):
        cache.store("conditioning", key or "empty", {"hidden": hidden_of(key)})
    return Job(
        parse({"caption_dropout": 0, "mixed_precision": "no", **config}),
        Base(Path("/base"), "sd15", "c0ffee"), tuple(items), prompts, "empty", cache.folder,
    )  # fmt: skip


def task_of(job: Job, family: Family, cache: Cache) -> Diffusion:
    return Diffusion(job, cast(Any, family), cache, CPU)


def window_of(job: Job, epoch: int = 0) -> tuple[Presentation, ...]:
    return windows(job.train_items, seed=job.config.seed, epoch=epoch, size=100)[0]


# --- batches


def test_a_batch_is_the_cached_things_and_the_run_s_draws(cache: Cache, family: Family) -> None:
    job = job_of(cache, seed=7)
    window = window_of(job)
    batch = task_of(job, family, cache).batch(window, 5)
    for row, shown in enumerate(window):
        number, key = int(shown.item.id, 16), shown.key
        expected = (latents_of(number, (64, 128))[0] - SHIFT) * SCALE
        assert torch.equal(batch.latents[row], expected)
        assert torch.equal(batch.noise[row], draws.normal((4, 16, 8), 7, 5, key, "noise"))
        assert batch.timestep[row] == draws.integer(1000, 7, 5, key, "timestep")
        assert torch.equal(batch.conditioning["hidden"][row], hidden_of(shown.item.conditioning[0])[0])
    assert batch.timestep.dtype == torch.int64
    assert batch.latents.shape == (3, 4, 16, 8)


def test_slices_of_a_window_are_what_the_whole_window_is(cache: Cache, family: Family) -> None:
    job = job_of(cache, 5, captions=3, caption_dropout=0.5, noise_offset=0.1)
    task, window = task_of(job, family, cache), window_of(job)
    whole = task.batch(window, 2)
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        part = task.batch(window[start:stop], 2)
        assert torch.equal(part.latents, whole.latents[start:stop])
        assert torch.equal(part.noise, whole.noise[start:stop])
        assert torch.equal(part.timestep, whole.timestep[start:stop])
        assert torch.equal(part.conditioning["hidden"], whole.conditioning["hidden"][start:stop])


def test_another_epoch_and_another_repeat_are_other_draws(cache: Cache, family: Family) -> None:
    job = job_of(cache, 1)
    task, item = task_of(job, family, cache), job.items[0]
    batches = [task.batch((Presentation(item, repeat),), epoch) for repeat in range(2) for epoch in range(2)]
    assert len({batch.noise.sum().item() for batch in batches}) == 4
    assert len({batch.timestep.item() for batch in batches}) == 4


def test_captions_are_dropped_as_often_as_asked(cache: Cache, family: Family) -> None:
    for share in (0.0, 0.25, 1.0):
        job = job_of(cache, 1, caption_dropout=share)
        task, item = task_of(job, family, cache), job.items[0]
        dropped = [
            task.batch((Presentation(item, 0),), epoch).conditioning["hidden"][0, 0, 0] == 0.0 for epoch in range(400)
        ]
        assert sum(map(bool, dropped)) / 400 == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)


def test_every_variant_of_a_caption_is_used(cache: Cache, family: Family) -> None:
    job = job_of(cache, 1)
    variants = ("a", "bb", "cccc")
    for key in variants:
        cache.store("conditioning", key, {"hidden": hidden_of(key)})
    item = replace(job.items[0], conditioning=variants)
    task = task_of(job, family, cache)
    used = [task.batch((Presentation(item, 0),), epoch).conditioning["hidden"][0, 0, 0].item() for epoch in range(90)]
    assert {n: used.count(n) > 15 for n in set(used)} == {1.0: True, 2.0: True, 4.0: True}


def test_noise_offset_reaches_the_noise(cache: Cache, family: Family) -> None:
    plain, offset = job_of(cache, 1), job_of(cache, 1, noise_offset=0.5)
    window = window_of(plain)
    difference = (
        task_of(offset, family, cache).batch(window, 0).noise - task_of(plain, family, cache).batch(window, 0).noise
    )
    assert torch.allclose(difference, difference[:, :, :1, :1].expand_as(difference), atol=1e-6)
    assert difference.abs().max() > 0.01


def test_an_entry_that_is_gone_is_said(cache: Cache, family: Family) -> None:
    job = job_of(cache, 1)
    cache.path("latents", "latents 0").unlink()
    with pytest.raises(CacheError, match="are gone from"):
        task_of(job, family, cache).batch(window_of(job), 0)


# --- conditioning of different lengths


def test_lengths_are_brought_together_by_repeating_to_their_least_common_multiple() -> None:
    entries = [
        {"hidden": normal(1, length, 5, seed=length), "pooled": normal(1, 3, seed=length)} for length in (4, 6, 4)
    ]
    stacked = stack_conditioning(entries)
    assert stacked["hidden"].shape == (3, 12, 5)
    assert torch.equal(stacked["hidden"][0], entries[0]["hidden"][0].repeat(3, 1))
    assert torch.equal(stacked["hidden"][1], entries[1]["hidden"][0].repeat(2, 1))
    assert torch.equal(stacked["pooled"], torch.cat([entry["pooled"] for entry in entries]))


def test_one_length_is_left_alone() -> None:
    entries = [{"hidden": normal(1, 77, 5, seed=n)} for n in range(3)]
    assert torch.equal(stack_conditioning(entries)["hidden"], torch.cat([entry["hidden"] for entry in entries]))


def test_repeated_tokens_leave_attention_as_it_was_and_zeros_would_not() -> None:
    query, tokens = normal(1, 9, 8), normal(1, 4, 8, seed=1)
    attend = torch.nn.functional.scaled_dot_product_attention
    repeated = stack_conditioning([{"h": tokens}, {"h": normal(1, 6, 8)}])["h"][:1]
    padded = torch.cat([tokens, torch.zeros(1, 8, 8)], 1)
    alone = attend(query, tokens, tokens)
    assert torch.allclose(attend(query, repeated, repeated), alone, atol=1e-5)
    assert not torch.allclose(attend(query, padded, padded), alone, atol=1e-2)


# --- loss


def test_the_loss_of_each_sample_is_the_error_of_the_predicted_noise(cache: Cache, family: Family) -> None:
    job = job_of(cache)
    task, model = task_of(job, family, cache), Model()
    batch = task.batch(window_of(job), 0)
    loss = task.loss(model, batch)
    assert loss.shape == (3,)
    alphas = family.noise_schedule()
    for row in range(3):
        alpha = alphas[batch.timestep[row]]
        noisy = alpha.sqrt() * batch.latents[row] + (1 - alpha).sqrt() * batch.noise[row]
        predicted = 0.5 * noisy + batch.conditioning["hidden"][row].mean()
        assert loss[row].item() == pytest.approx((predicted - batch.noise[row]).square().mean().item(), rel=1e-5)
    loss.sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.abs() > 0


def test_a_batch_goes_to_a_device_whole() -> None:
    batch = Batch(
        torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8), torch.ones(1, dtype=torch.int64), {"h": torch.ones(1)}
    )
    moved = batch.to(torch.device("meta"))
    assert all(t.is_meta for t in (moved.latents, moved.noise, moved.timestep, moved.conditioning["h"]))


# --- validation


def test_validation_is_on_fixed_noise_at_fixed_timesteps(cache: Cache, family: Family) -> None:
    job = job_of(cache, 6)
    task, model = task_of(job, family, cache), Model()
    signal, first = task.validate(model)
    assert signal == "train"
    assert list(first) == [str(t) for t in VALIDATION_TIMESTEPS]
    asked = list(family.predicted)
    assert len(asked) == 4 * 4  # at most four training images
    assert [int(t) for _, t, _ in asked] == [t for t in VALIDATION_TIMESTEPS for _ in range(4)]
    task.batch(window_of(job), 3)
    assert task.validate(model) == ("train", first)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(asked, family.predicted[16:], strict=True))
    with torch.no_grad():
        model.weight.add_(0.25)
    assert task.validate(model)[1] != first


def test_held_out_images_are_what_is_validated_on_all_of_them(cache: Cache, family: Family) -> None:
    job = job_of(cache, 8, held_out=6)
    signal, losses = task_of(job, family, cache).validate(Model())
    assert signal == "held_out"
    assert len(family.predicted) == 6 * 4
    alone = job_of(cache, 8, held_out=1)
    _, first = task_of(alone, family, cache).validate(Model())
    assert first != losses


def test_validation_keeps_the_captions_and_builds_no_graph(cache: Cache, family: Family) -> None:
    job = job_of(cache, 2, caption_dropout=1.0)
    model = Model()
    task_of(job, family, cache).validate(model)
    assert all(conditioning["hidden"].mean() > 0 for _, _, conditioning in family.predicted)
    assert model.weight.grad is None


def test_each_image_and_timestep_has_noise_of_its_own(cache: Cache, family: Family) -> None:
    job = job_of(cache, 1)
    cache.store("latents", "latents 0", {"latents": torch.full((1, 4, 16, 8), SHIFT)})  # nothing but noise is left
    task_of(job, family, cache).validate(Model())
    noises = [noisy / noisy.std() for noisy, _, _ in family.predicted]
    assert all(abs((a * b).mean()) < 0.3 for n, a in enumerate(noises) for b in noises[:n])


# --- samples


def test_a_sample_is_drawn_as_the_config_says(cache: Cache, family: Family) -> None:
    job = job_of(
        cache, bucket=(64, 128), sample_inference_steps=7, sample_guidance=3.5, seed=11, sample_prompts=["a house"]
    )
    task = task_of(job, family, cache)
    assert task.sample(Model(), 1).shape == (1, 4, 16, 8)
    task.sample(Model(), 0)
    second, first = family.sampled
    assert {k: second[k] for k in ("width", "height", "steps", "guidance", "seed")} == {
        "width": 64, "height": 128, "steps": 7, "guidance": 3.5, "seed": 12,
    }  # fmt: skip
    assert first["seed"] == 11  # each prompt has noise of its own, the same every time
    assert torch.equal(second["conditioning"]["hidden"], hidden_of("prompt one"))
    assert torch.equal(second["negative"]["hidden"], hidden_of(""))
