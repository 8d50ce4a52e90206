"""What must not matter does not: how a batch is cut, where a run was broken, what was cached; for every setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from trainer import checkpoint, device, families, run
from trainer import job as jobs
from trainer.cache import Cache
from trainer.config import TrainConfig
from trainer.dataset.sampler import Presentation
from trainer.events import Event, RunFailed, RunFinished, RunStarted, RunStopped, Step, Warned
from trainer.tasks.diffusion import Diffusion
from trainer.trained import build

Pictures = Callable[..., Path]
SQUARE = ((128, 128),) * 5


@pytest.fixture
def five(config: TrainConfig, picture_folder: Pictures, tmp_path: Path) -> TrainConfig:
    """Twenty steps on five images of one shape: with a batch of four each epoch has a short window."""
    folder = picture_folder(tmp_path / "f\u00fcnf", SQUARE)
    return config.but(
        train_data_dir=folder.as_posix(), resolution=64, epochs=100, max_steps=20, save_steps=1000, batch_size=4
    )


def trained(config: TrainConfig, until: int | None = None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of a run, and its adapters at the end; or broken off after a step, and gone on with."""
    seen: list[Event] = []

    def steps() -> list[Step]:
        return [event for event in seen if isinstance(event, Step)]

    if until is not None:
        end = run.start(config, [seen.append], lambda: len(steps()) >= until)
        assert isinstance(end, RunStopped), end
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFinished), end
    state = checkpoint.load(config.output_dir, end.step)
    return [event.loss for event in steps()], state.adapter


def elsewhere(config: TrainConfig, name: str, **fields: Any) -> TrainConfig:
    return config.but(output_dir=config.output_dir.with_name(name).as_posix(), **fields)


def differ(
    one: tuple[list[float], dict[str, torch.Tensor]], other: tuple[list[float], dict[str, torch.Tensor]]
) -> float:
    """The largest relative difference, of the losses and of the adapters as a whole."""
    losses = torch.tensor([one[0], other[0]])
    weights = [
        torch.cat([tensor.flatten() for _, tensor in sorted(adapters.items())]) for adapters in (one[1], other[1])
    ]
    return max(
        float(((losses[0] - losses[1]).abs() / losses[0].abs()).max()),
        float((weights[0] - weights[1]).norm() / weights[0].norm()),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"train_text_encoder": True},
        pytest.param(
            {"prior_preservation": 0.5, "class_prompt": "a house", "loss_type": "huber", "min_snr_gamma": 5.0},
            marks=pytest.mark.long,
        ),
    ],
    ids=["plain", "text encoder", "prior preservation"],
)
def test_how_a_batch_is_cut_does_not_matter(five: TrainConfig, fields: dict[str, Any]) -> None:
    five = five.but(**fields)
    whole = trained(elsewhere(five, "4x1"))
    assert len(whole[0]) == 20
    for batch, accumulation in ((2, 2), (1, 4)):
        name = f"{batch}x{accumulation}"
        cut = trained(elsewhere(five, name, batch_size=batch, gradient_accumulation_steps=accumulation))
        assert differ(whole, cut) < 1e-5, name


SETTINGS: dict[str, dict[str, Any]] = {
    "dora, adafactor, average": {"lora_method": "dora", "optimizer": "adafactor", "ema_decay": 0.9},
    "loha, lion": {"lora_method": "loha", "optimizer": "lion"},
    "lokr, prodigy": {"lora_method": "lokr", "optimizer": "prodigy", "learning_rate": 1.0},
    "rslora, schedulefree": {"lora_method": "rslora", "optimizer": "schedulefree"},
    "8 bit, restarts": {
        "optimizer": "adamw8bit",
        "optimizer_args": {"min_8bit_size": 1},
        "lr_scheduler": "cosine_with_restarts",
        "lr_cycles": 2,
    },
    "dropout, flips, shuffled tags": {"lora_dropout": 0.2, "flip": True, "caption_shuffle": True},
    "text encoder": {"train_text_encoder": True, "lora_dropout": 0.1},
    "v-prediction": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    "prior preservation": {"prior_preservation": 0.5, "class_prompt": "a house"},
}
NEEDS = {"lion": "lion_pytorch", "prodigy": "prodigyopt", "schedulefree": "schedulefree", "adamw8bit": "bitsandbytes"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_broken_run_is_the_unbroken_one_bit_for_bit(five: TrainConfig, name: str) -> None:
    fields = SETTINGS[name]
    if fields.get("optimizer") in NEEDS:
        pytest.importorskip(NEEDS[fields["optimizer"]])
    for path in five.train_data_dir.glob("*.txt"):
        path.write_text(f"{path.stem}, red, blue, green, tree", encoding="utf-8")
    config = five.but(max_steps=8, batch_size=2, gradient_accumulation_steps=2, **fields)
    # The third step is in the middle of the second epoch.
    unbroken, broken = trained(elsewhere(config, "unbroken")), trained(elsewhere(config, "broken"), until=3)
    assert unbroken[0] == broken[0]
    assert unbroken[1].keys() == broken[1].keys()
    assert all(torch.equal(tensor, broken[1][key]) for key, tensor in unbroken[1].items())
    files = [(config.output_dir.with_name(n) / f"{n}.safetensors") for n in ("unbroken", "broken")]
    tensors = [load_file(path) for path in files]
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


def test_steps_that_are_written_down_late_are_those_that_are_written_down_at_once(five: TrainConfig) -> None:
    """And so they are where the run is broken while a step is open."""
    config = five.but(max_steps=9, batch_size=2, ema_decay=0.9, log_interval=100, save_steps=3)
    at_once = trained(elsewhere(config, "at once", log_interval=1))[1]
    late = trained(elsewhere(config, "late"))[1]
    broken = elsewhere(config, "broken")
    end = run.start(broken, [], lambda: (checkpoint.latest(broken.output_dir) or 0) >= 3)
    assert isinstance(end, RunStopped)
    gone_on = trained(broken)[1]
    for other in (late, gone_on):
        assert all(torch.equal(tensor, other[key]) for key, tensor in at_once.items())
    files = [load_file(config.output_dir.with_name(name) / f"{name}.safetensors") for name in ("at once", "broken")]
    assert all(torch.equal(tensor, files[1][key]) for key, tensor in files[0].items())


@pytest.mark.parametrize("saved", [1, 4])
def test_a_run_that_broke_within_a_window_goes_on_bit_for_bit(
    five: TrainConfig, monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    """What half a window has accumulated is lost with the process, and made again."""
    config = five.but(max_steps=8, batch_size=1, gradient_accumulation_steps=4, save_steps=1)
    unbroken = trained(elsewhere(config, "unbroken"))
    broken, loss = elsewhere(config, "broken"), Diffusion.loss

    def fail(self: Diffusion, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        accumulating = torch.is_grad_enabled() and any(p.grad is not None for p in model.parameters())
        if accumulating and (checkpoint.latest(broken.output_dir) or 0) >= saved:
            raise RuntimeError("the power went off")
        return loss(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "loss", fail)
        end = run.start(broken, [])
    assert isinstance(end, RunFailed)
    assert "the power went off" in end.message
    step = checkpoint.latest(broken.output_dir)
    assert step is not None
    assert saved <= step < 8
    again = trained(broken)
    assert unbroken[0][step:] == again[0]
    assert all(torch.equal(tensor, again[1][key]) for key, tensor in unbroken[1].items())


def test_conditioning_from_the_cache_and_encoded_anew_train_the_same_denoiser(five: TrainConfig) -> None:
    """The text encoder's adapters stand still at such a rate; what it gives is then what is cached."""
    still = {"train_text_encoder": True, "text_encoder_learning_rate": 1e-30, "max_grad_norm": 0.0}
    cached = trained(elsewhere(five, "cached", max_grad_norm=0.0))
    live = trained(elsewhere(five, "live", **still))
    denoiser = {name: tensor for name, tensor in live[1].items() if ":" not in name}
    assert denoiser.keys() == cached[1].keys()
    assert differ(cached, (live[0], denoiser)) < 1e-5


def test_a_text_encoder_that_is_trained_changes(five: TrainConfig) -> None:
    _, adapters = trained(five.but(train_text_encoder=True, max_steps=4))
    ups = [tensor for name, tensor in adapters.items() if name.startswith("text_encoder:") and name.endswith(".up")]
    assert len(ups) == 12
    assert all(tensor.abs().max() > 0 for tensor in ups)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_text_encoder_trains_in_bf16(
    five: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(device, "_seconds", lambda *_: 1.0)  # as if the CPU had instructions for it
    base = families.get(name).tiny(tmp_path / f"{name}.safetensors", 0)
    fields = {"train_text_encoder": True, "base_model": base.as_posix(), "max_steps": 3, "validation_steps": 2}
    whole = trained(elsewhere(five, "fp32", **fields))
    half = trained(elsewhere(five, "bf16", mixed_precision="bf16", **fields))
    assert 0 < differ(whole, half) < 0.05


def test_prior_preservation_holds_text_encoders_too(five: TrainConfig) -> None:
    """What the class prompt meant is what it meant to the text encoder as it was."""
    config = five.but(prior_preservation=1.0, class_prompt="a house", train_text_encoder=True, max_steps=1)
    run.start(config, [])
    job, family = jobs.load(config.output_dir), families.get("sd15")
    parts = build(family, job.base, job.config, torch.float32)
    task = Diffusion(job, family, Cache(job.cache_dir), torch.device("cpu"), parts.encoders)

    def drift() -> float:
        with torch.no_grad():
            batch = task.batch([Presentation(job.train_items[0], 0)], 0)
            noisy = task._objective.noisy(batch.latents, batch.noise, batch.timestep)
            return task._drift(parts.model, batch, noisy).item()

    assert drift() == 0
    with torch.no_grad():
        for name, parameter in parts.parameters().items():
            if name.startswith("text_encoder:") and name.endswith(".up"):
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    assert drift() > 1e-4


def test_regularisation_images_and_masks_train_to_the_end_and_matter(
    five: TrainConfig, picture_folder: Pictures, tmp_path: Path
) -> None:
    others = picture_folder(tmp_path / "cl\u00e4ss", SQUARE[:2], seed=5)
    for index in range(5):
        white = np.zeros((128, 128), np.uint8)
        white[:, : 30 + 10 * index] = 255
        Image.fromarray(white).save(five.train_data_dir / f"picture {index}.mask.png")
    config = five.but(max_steps=6)
    plain = trained(elsewhere(config, "plain"))
    (others / "picture 1.txt").unlink()
    seen: list[Event] = []
    told = elsewhere(config, "told", reg_data_dir=others.as_posix(), class_prompt="a house", validation_images=1)
    assert isinstance(run.start(told, [seen.append]), RunFinished)
    (started,) = [event for event in seen if isinstance(event, RunStarted)]
    assert (started.images, started.regularisation, started.held_out) == (6, 2, 1)
    assert any("trained with 'a house'" in event.message for event in seen if isinstance(event, Warned))
    regular = trained(elsewhere(config, "regular", reg_data_dir=others.as_posix()))
    masked = trained(elsewhere(config, "masked", mask="files"))
    assert differ(plain, regular) > 1e-3
    assert differ(plain, masked) > 1e-3
