"""Every family trains through the whole program: epsilon and v, text encoders too, to a file that its base takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from trainer import checkpoint, families, job, preview, run
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.events import Event, RunFailed, RunFinished, RunStopped, Sample, Step, Validation

NAMES = [family.name for family in families.all_families()]


def base_of(name: str, folder: Path, **marks: Any) -> Path:
    path = folder / f"b\u00e4se {name} \u6a21\u578b.safetensors"
    return families.get(name).tiny(path, 0, **marks)


def settings(config: TrainConfig, base: Path, **fields: Any) -> TrainConfig:
    return config.but(
        base_model=base.as_posix(), max_steps=6, validation_steps=3, sample_every=6, sample_inference_steps=2,
        sample_prompts=["a house", {"prompt": "b", "negative": "fog", "width": 192, "height": 64}], **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(pytest.param(name, False, id=f"denoiser-{name}") for name in NAMES),
        pytest.param("sd15", True, id="text encoders too-sd15"),
        pytest.param("sdxl", True, id="text encoders too-sdxl", marks=pytest.mark.long),
    ],
)
def test_a_family_trains_resumes_samples_and_its_file_fits(
    config: TrainConfig, tmp_path: Path, name: str, text: bool
) -> None:
    base = base_of(name, tmp_path)
    config = settings(config, base, train_text_encoder=text)
    seen: list[Event] = []
    steps = lambda: sum(isinstance(event, Step) for event in seen)  # noqa: E731
    assert isinstance(run.start(config, [seen.append], lambda: steps() >= 2), RunStopped)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFinished), end
    whole = config.but(output_dir=(tmp_path / "unbroken").as_posix())
    assert isinstance(run.start(whole, []), RunFinished)
    broken, unbroken = (checkpoint.load(c.output_dir, 6).adapter for c in (config, whole))
    assert all(torch.equal(tensor, unbroken[key]) for key, tensor in broken.items())

    samples = [event for event in seen if isinstance(event, Sample)]
    assert [event.prompt for event in samples] == ["a house", "b"]
    assert len({event.loss for event in seen if isinstance(event, Validation)}) > 1
    path = config.output_dir / end.path
    with safe_open(path, framework="pt") as file:
        prefixes = {key.split("_")[1] for key in file.keys()}  # noqa: SIM118
        assert file.metadata()["ss_base_model_version"] in ("sd_v1", "sdxl_base_v1-0")
    expected = {"sd15": {"te"}, "sdxl": {"te1", "te2"}}[name] if text else set()
    assert prefixes == {"unet"} | expected
    family = families.get(name)
    models = dict(family.load_encoders(base).text_models) if text else None
    preview.put(family.load_model(base, torch.float32), path, family, models)
    drawn = preview.draw(base, path, ["a house", "b"], [0.0, 1.0], width=64, height=128, steps=2)
    alone = preview.draw(base, None, ["a house", "b"], [1.0], width=64, height=128, steps=2)
    assert drawn.shape == (2, 2, 3, 128, 64)
    assert torch.equal(drawn[:, 0], alone[:, 0])
    assert not torch.equal(drawn[:, 1], alone[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_says_of_its_prediction_is_trained(config: TrainConfig, tmp_path: Path, name: str) -> None:
    base = base_of(name, tmp_path, prediction="v_prediction", zero_terminal_snr=True)
    config = settings(config, base)
    assert isinstance(run.start(config, []), RunFinished)
    said = job.load(config.output_dir).base
    assert (said.prediction, said.zero_terminal_snr) == ("v_prediction", True)
    other = config.but(prediction_type="epsilon", output_dir=(tmp_path / "as epsilon").as_posix())
    assert isinstance(run.start(other, []), RunFinished)
    said = job.load(other.output_dir).base
    assert (said.prediction, said.zero_terminal_snr) == ("epsilon", False)


def test_a_config_and_a_file_that_contradict_each_other_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    base = base_of("sd15", tmp_path)
    with pytest.raises(ConfigError, match=r"zero_terminal_snr: true, but .* predicts epsilon; set prediction_type"):
        run.start(settings(config, base, zero_terminal_snr=True), [])


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_trains_on_other_conditioning(config: TrainConfig, tmp_path: Path, skip: int) -> None:
    base = base_of("sd15", tmp_path)
    plain = settings(config, base)
    assert isinstance(run.start(plain, []), RunFinished)
    skipped = plain.but(clip_skip=skip, output_dir=(tmp_path / "skipped").as_posix())
    assert isinstance(run.start(skipped, []), RunFinished)
    keys = [job.load(c.output_dir).items[0].conditioning for c in (plain, skipped)]
    assert (keys[0] == keys[1]) == (skip == 1)


def test_more_layers_skipped_than_there_are_is_said(config: TrainConfig, tmp_path: Path) -> None:
    base = base_of("sd15", tmp_path)
    end = run.start(settings(config, base, clip_skip=12), [])
    assert isinstance(end, RunFailed)
    assert end.user
    assert "clip_skip" in end.message
