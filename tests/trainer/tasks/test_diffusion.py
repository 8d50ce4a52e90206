"""What a batch is and what its loss is, with a family that writes down what it was asked."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
from trainer.job import Base, ClassPrompt, Item, Job, Prompt
from trainer.tasks.diffusion import PAIRS, Batch, Diffusion, stack_conditioning

SCALE, SHIFT = 0.5, 0.25
CPU = torch.device("cpu")


class Family:
    """Predicts the mean of the conditioning plus ``model.weight`` times what it sees."""

    latent_scale, latent_shift = SCALE, SHIFT

    def __init__(self) -> None:
        self.predicted: list[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]] = []
        self.sampled: list[dict[str, Any]] = []

    def noise_schedule(self, zero_terminal_snr: bool = False) -> torch.Tensor:
        return torch.linspace(0.999, 1e-8 if zero_terminal_snr else 0.005, 1000)

    def size_conditioning(self, size: Any, crop: Any, bucket: Any) -> dict[str, torch.Tensor]:
        return {"size_ids": torch.tensor([[*size, *crop, *bucket]], dtype=torch.float32)}

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


def with_weight(value: float) -> Callable[[Model], AbstractContextManager[None]]:
    """In place of ``adapters.disabled``: the base model is one with this weight."""

    @contextmanager
    def base(adapted: Model) -> Iterator[None]:
        before = adapted.weight.data
        adapted.weight.data = torch.tensor(value)
        yield
        adapted.weight.data = before

    return base


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
            Item(
                f"{number:032x}",
                f"{number}.png",
                keys,
                (90, 150),
                bucket,
                1,
                f"latents {number}",
                keys,
                held_out=number < held_out,
            )
        )
        cache.store("latents", f"latents {number}", {"latents": latents_of(number, bucket)})
        for key in keys:
            cache.store("conditioning", key, {"hidden": hidden_of(key)})
    prompts = (
        Prompt("a house", "prompt 0", "", "empty"),
        Prompt("a tree", "prompt one", "fog", "negative fog", 77, 9, 2.5, 1.0, 192, 64),
    )
    for key in ("", "negative fog", *(p.conditioning for p in prompts)):
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
    one = torch.ones(1, 4, 8, 8)
    batch = Batch(one, one, torch.ones(1, dtype=torch.int64), {"h": one}, torch.ones(1), one, {"h": one})
    moved = batch.to(torch.device("meta"))
    assert all(t.is_meta for t in (moved.latents, moved.noise, moved.timestep, moved.conditioning["h"]))
    assert all(t.is_meta for t in (moved.weight, moved.mask, moved.prior["h"]) if t is not None)
    assert replace(batch, mask=None).to(torch.device("meta")).mask is None


# --- validation


def measured(task: Diffusion, model: Model) -> dict[str, dict[str, float]]:
    return dict(task.validate(model))


def class_prompts(job: Job, text: str = "prompt 0") -> Job:
    items = job.train_items[:2]
    return replace(job, class_prompts=tuple(ClassPrompt(item.id, "a house", text) for item in items))


def test_validation_is_on_fixed_noise_at_fixed_timesteps(cache: Cache, family: Family) -> None:
    job = job_of(cache, 12, batch_size=3)
    task, model = task_of(job, family, cache), Model()
    first = measured(task, model)
    assert list(first) == ["train"]
    assert len(first["train"]) == PAIRS  # two timesteps of at most eight images
    asked = list(family.predicted)
    assert max(len(noisy) for noisy, _, _ in asked) == 3  # no more at once than a micro-batch has
    task.batch(window_of(job), 3)
    assert measured(task, model) == first
    again = family.predicted[len(asked) :]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(asked, again, strict=True))
    with torch.no_grad():
        model.weight.add_(0.25)
    assert measured(task, model)["train"] != first["train"]


def test_a_pair_s_loss_is_the_objective_s(cache: Cache, family: Family) -> None:
    job = job_of(cache, 3, held_out=1)
    found = measured(task_of(job, family, cache), Model())["held_out"]
    assert len(found) == PAIRS
    for pair, loss in found.items():
        timestep = int(pair.partition("@")[2])
        latents = (latents_of(0, (64, 128)) - SHIFT) * SCALE
        noise = draws.normal((4, 16, 8), 42, "validation", pair, "noise")[None]
        alpha = family.noise_schedule()[timestep]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        expected = (0.5 * noisy + len("caption 0 0") - noise).square().mean()
        assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("count", "pairs"), [(1, 16), (2, 16), (3, 18), (8, 16), (30, 60)])
def test_pairs_cover_the_schedule_evenly(cache: Cache, family: Family, count: int, pairs: int) -> None:
    job = job_of(cache, count + 1, held_out=count, bucket=(64, 64))
    task = task_of(job, family, cache)
    found = measured(task, Model())["held_out"]
    assert len(found) == pairs
    timesteps = sorted(int(pair.partition("@")[2]) for pair in found)
    assert max(b - a for a, b in itertools.pairwise([0, *timesteps, 999])) <= 1000 / pairs + 1
    assert {pair.partition("@")[0] for pair in found} == {item.id for item in job.items if item.held_out}
    bands = Counter(task.band(pair) for pair in found)
    assert sorted(bands, key=int) == ["125", "375", "625", "875"]
    assert max(bands.values()) - min(bands.values()) <= 1


def test_training_images_are_measured_beside_those_that_are_held_out(cache: Cache, family: Family) -> None:
    job = class_prompts(job_of(cache, 8, held_out=6))
    found = measured(task_of(job, family, cache), Model())
    assert list(found) == ["held_out", "train", "drift"]
    ids = {signal: {pair.partition("@")[0] for pair in pairs} for signal, pairs in found.items()}
    assert ids["held_out"] == {item.id for item in job.items if item.held_out}
    assert ids["train"] == ids["drift"] == {item.id for item in job.train_items}


def test_which_images_are_measured_does_not_depend_on_their_order(cache: Cache, family: Family) -> None:
    job = job_of(cache, 12)
    reverse = replace(job, items=job.items[::-1])
    assert measured(task_of(job, family, cache), Model()) == measured(task_of(reverse, family, cache), Model())


def test_validation_keeps_the_captions_and_builds_no_graph(cache: Cache, family: Family) -> None:
    job = job_of(cache, 2, caption_dropout=1.0)
    model = Model()
    measured(task_of(job, family, cache), model)
    assert all(conditioning["hidden"].mean() > 5 for _, _, conditioning in family.predicted)
    assert torch.is_grad_enabled()
    assert model.weight.grad is None


def test_each_image_and_timestep_has_noise_of_its_own(cache: Cache, family: Family) -> None:
    job = job_of(cache, 1, batch_size=1)
    cache.store("latents", "latents 0", {"latents": torch.full((1, 4, 16, 8), SHIFT)})  # nothing but noise is left
    measured(task_of(job, family, cache), Model())
    noises = [noisy / noisy.std() for noisy, _, _ in family.predicted]
    assert all(abs((a * b).mean()) < 0.3 for n, a in enumerate(noises) for b in noises[:n])


def test_drift_is_what_the_lora_has_changed_where_it_should_not(
    cache: Cache, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing before it has learnt; afterwards the squared distance of the two predictions."""
    job = class_prompts(job_of(cache, 3, batch_size=2))
    monkeypatch.setattr("trainer.adapters.disabled", with_weight(0.5))
    task, model = task_of(job, family, cache), Model()
    assert set(measured(task, model)["drift"].values()) == {0.0}
    family.predicted.clear()
    model.weight.data = torch.tensor(0.75)
    found = measured(task, model)["drift"]
    assert len(found) == PAIRS // 2
    mine = [(noisy, hidden["hidden"]) for noisy, _, hidden in family.predicted[-4:]]  # the base's are not asked again
    assert all(torch.equal(hidden, hidden_of("prompt 0").expand(2, -1, -1)) for _, hidden in mine)
    expected = torch.cat([(0.25 * noisy).square().flatten(1).mean(1) for noisy, _ in mine])
    assert torch.allclose(torch.tensor(list(found.values())), expected, rtol=1e-4)


def test_drift_is_against_the_text_encoder_as_it_was(
    cache: Cache, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = Encoders()
    job = class_prompts(job_of(cache, 2, train_text_encoder=True))

    @contextmanager
    def before(adapted: Any) -> Iterator[None]:
        now = encoders.weight.data
        encoders.weight.data = torch.tensor(2.0)
        yield
        encoders.weight.data = now

    monkeypatch.setattr("trainer.adapters.disabled", before)
    task = Diffusion(job, cast(Any, family), cache, CPU, cast(Any, encoders))
    assert set(measured(task, Model())["drift"].values()) == {0.0}
    encoders.weight.data = torch.tensor(2.5)
    drift = measured(task, Model())["drift"]
    assert list(drift.values()) == pytest.approx([(0.5 * len("a house")) ** 2] * len(drift))


# --- samples


def test_a_sample_is_drawn_as_the_config_says(cache: Cache, family: Family) -> None:
    job = job_of(cache, bucket=(64, 128), sample_inference_steps=7, sample_guidance=3.5, seed=11)
    task = task_of(job, family, cache)
    assert task.sample(Model(), 0).shape == (1, 4, 16, 8)
    (drawn,) = family.sampled
    assert {k: v for k, v in drawn.items() if k not in ("conditioning", "negative")} == {
        "width": 64, "height": 128, "steps": 7, "guidance": 3.5, "seed": 11, "prediction": "epsilon",
        "zero_terminal_snr": False,
    }  # fmt: skip
    assert torch.equal(drawn["conditioning"]["hidden"], hidden_of("prompt 0"))
    assert torch.equal(drawn["negative"]["hidden"], hidden_of(""))
    task.sample(Model(), 0)
    assert family.sampled[1]["seed"] == 11  # the same noise every time


def test_a_prompt_s_own_settings_win(cache: Cache, family: Family) -> None:
    job = job_of(cache, sample_inference_steps=7, sample_guidance=3.5, seed=11)
    job = replace(job, base=replace(job.base, prediction="v_prediction", zero_terminal_snr=True))
    task_of(job, family, cache).sample(Model(), 1)
    (drawn,) = family.sampled
    assert {k: v for k, v in drawn.items() if k not in ("conditioning", "negative")} == {
        "width": 192, "height": 64, "steps": 9, "guidance": 2.5, "seed": 77, "prediction": "v_prediction",
        "zero_terminal_snr": True,
    }  # fmt: skip
    assert torch.equal(drawn["negative"]["hidden"], hidden_of("negative fog"))


def test_without_a_seed_of_its_own_each_prompt_has_other_noise(cache: Cache, family: Family) -> None:
    job = job_of(cache, seed=11)
    job = replace(job, prompts=(job.prompts[0], job.prompts[0]))
    for index in range(2):
        task_of(job, family, cache).sample(Model(), index)
    assert [drawn["seed"] for drawn in family.sampled] == [11, 12]


def test_the_probe_draws_the_prompt_with_the_most_pixels_in_one_step(cache: Cache, family: Family) -> None:
    """Guidance draws two pictures at once, so it counts twice."""
    job = job_of(cache, sample_inference_steps=7, sample_guidance=3.5)
    small = replace(job.prompts[0], width=128, height=64, guidance=None)
    large = replace(job.prompts[0], width=192, height=64, guidance=1.0)
    task_of(replace(job, prompts=(large, small)), family, cache).probe(Model())
    (drawn,) = family.sampled
    assert (drawn["width"], drawn["guidance"], drawn["steps"]) == (128, 3.5, 1)


# --- sizes, flips, masks, weights


def test_the_denoiser_is_told_of_the_size_and_the_true_crop(cache: Cache, family: Family) -> None:
    """90 x 150 pixels cover 64 x 128 as 77 x 128: six pixels are cut off at the left, seven at the right."""
    job = job_of(cache, 1)
    batch = task_of(job, family, cache).batch(window_of(job), 0)
    assert batch.conditioning["size_ids"].tolist() == [[90, 150, 6, 0, 64, 128]]


def test_half_of_the_showings_are_of_the_mirrored_picture_with_its_own_crop(cache: Cache, family: Family) -> None:
    job = job_of(cache, 1)
    cache.store("latents", "mirrored", {"latents": latents_of(99, (64, 128))})
    item = replace(job.items[0], flipped="mirrored")
    task = task_of(job, family, cache)
    mirrored = []
    for epoch in range(200):
        batch = task.batch((Presentation(item, 0),), epoch)
        mirrored.append(torch.equal(batch.latents[0], (latents_of(99, (64, 128))[0] - SHIFT) * SCALE))
        assert batch.conditioning["size_ids"][0, 2] == (7 if mirrored[-1] else 6)
    assert sum(mirrored) / 200 == pytest.approx(0.5, abs=0.1)
    again = [
        torch.equal(task.batch((Presentation(item, 0),), 3).latents, task.batch((Presentation(item, 0),), 3).latents)
    ]
    assert again == [True]


def test_a_mask_comes_with_its_latents_and_an_image_without_one_counts_whole(cache: Cache, family: Family) -> None:
    job = job_of(cache, 2, mask="files", mask_outside=0.0)
    mask = torch.zeros(1, 1, 16, 8)
    mask[..., :4, :] = 1
    cache.store("latents", "latents 1", {"latents": latents_of(1, (64, 128)), "mask": mask})
    task, model = task_of(job, family, cache), Model()
    window = tuple(Presentation(item, 0) for item in job.items)
    batch = task.batch(window, 0)
    assert batch.mask is not None
    assert torch.equal(batch.mask, torch.cat([torch.ones(1, 1, 16, 8), mask]))
    alphas = family.noise_schedule()
    alpha = alphas[batch.timestep[1]]
    noisy = alpha.sqrt() * batch.latents[1] + (1 - alpha).sqrt() * batch.noise[1]
    error = (0.5 * noisy + batch.conditioning["hidden"][1].mean() - batch.noise[1]).square()
    assert task.loss(model, batch)[1].item() == pytest.approx(error[:, :4].mean().item(), rel=1e-5)


def test_an_image_s_weight_multiplies_its_loss(cache: Cache, family: Family) -> None:
    job = job_of(cache, 2)
    plain = tuple(Presentation(item, 0) for item in job.items)
    weighted = (plain[0], Presentation(replace(job.items[1], weight=0.25), 0))
    task, model = task_of(job, family, cache), Model()
    first, second = (task.loss(model, task.batch(window, 0)) for window in (plain, weighted))
    assert torch.allclose(second, first * torch.tensor([1.0, 0.25]))


# --- prior preservation, text encoders that are trained


def test_prior_preservation_adds_how_far_the_class_has_drifted(
    cache: Cache, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job_of(cache, 2, prior_preservation=0.5, class_prompt="a house"), class_prompt="prompt 0")
    plain = replace(job_of(cache, 2), class_prompt="")
    model = Model()

    monkeypatch.setattr("trainer.adapters.disabled", with_weight(0.2))
    task = task_of(job, family, cache)
    batch = task.batch(window_of(job), 0)
    total, own = task.loss(model, batch), task_of(plain, family, cache).loss(model, replace(batch, prior={}))
    alpha = family.noise_schedule()[batch.timestep].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise
    drift = (0.3 * noisy).square().flatten(1).mean(1)
    assert torch.allclose(total - own, 0.5 * drift, rtol=1e-4)
    hidden = family.predicted[1][2]["hidden"]
    assert torch.equal(hidden, hidden_of("prompt 0").expand(2, -1, -1))
    total.sum().backward()
    assert model.weight.grad is not None
    # Validation measures the images alone.
    assert measured(task, model)["train"] == measured(task_of(plain, family, cache), model)["train"]


class Encoders:
    """Text encoders of one weight: a caption's length times it."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.text_models = {"text_encoder": self}

    def tokenize(self, caption: str) -> dict[str, torch.Tensor]:
        return {"text_encoder": torch.full((1, 77), len(caption))}

    def conditioning(self, tokens: Any) -> list[dict[str, torch.Tensor]]:
        return [{"hidden": one["text_encoder"][..., None].float() * self.weight} for one in tokens]


def test_text_encoders_that_are_trained_encode_anew_and_take_a_gradient(cache: Cache, family: Family) -> None:
    job = job_of(cache, 2, train_text_encoder=True)
    for key in job.captions():  # they are not read from the cache
        cache.path("conditioning", key).unlink(missing_ok=True)
    encoders = Encoders()
    task = Diffusion(job, cast(Any, family), cache, CPU, cast(Any, encoders))
    window = tuple(Presentation(item, 0) for item in job.items)
    batch = task.batch(window, 0)
    assert batch.conditioning["hidden"][:, 0, 0].tolist() == [2.0 * len("caption 0 0")] * 2
    task.loss(Model(), batch).sum().backward()
    assert encoders.weight.grad is not None
    assert encoders.weight.grad.abs() > 0
    task.sample(Model(), 0)
    assert family.sampled[0]["conditioning"]["hidden"][0, 0, 0] == 2.0 * len("a house")
    assert not family.sampled[0]["conditioning"]["hidden"].requires_grad
