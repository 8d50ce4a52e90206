"""Every field of the config reaches the place that uses it: none is only validated and then forgotten."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from trainer import adapters, attempts, job, run
from trainer.cache import conditioning_key
from trainer.config import TrainConfig
from trainer.events import Event, MemoryPlan, RunStopped
from trainer.frozen.layers import Frozen
from trainer.gauge import GB
from trainer.job import Job
from trainer.studio import Studio
from trainer.training import Training

# Fields that are used where a test of that place sees them.
ELSEWHERE = {
    "auto": "advisor/test_choices.py",
    "task_type": "test_config.py",
    "caption_source": "test_the_source_of_captions_reaches_the_scan",
    "log_interval": "test_loop.py",
    "save_steps": "test_loop.py",
    "sample_every": "test_loop.py, test_prepare.py",
    "validation_steps": "test_loop.py, test_studio.py",
    "early_stopping_patience": "test_studio.py",
    "max_grad_norm": "test_loop.py",
    "gradient_accumulation_steps": "test_loop.py",
    "learning_rate": "test_optim.py",
    "lr_scheduler": "test_optim.py",
    "warmup_steps": "test_optim.py",
    "sample_strength": "test_studio.py",
    "sample_inference_steps": "tasks/test_diffusion.py",
    "sample_guidance": "tasks/test_diffusion.py",
    "sample_prompts": "test_prepare.py",
    "caption_dropout": "tasks/test_diffusion.py",
    "noise_offset": "tasks/test_diffusion.py",
    "caption_shuffle": "test_prepare.py",
    "keep_tokens": "test_prepare.py",
    "mask": "test_equivalence.py, tasks/test_diffusion.py",
    "mask_outside": "test_objectives.py",
    "reg_data_dir": "test_prepare.py, test_equivalence.py",
    "prior_weight": "test_prepare.py",
    "lokr_factor": "test_trained.py",
    "init_lora": "test_trained.py",
    "lr_cycles": "test_optim.py",
    "lr_power": "test_optim.py",
    "loss_type": "test_objectives.py",
    "huber_delta": "test_objectives.py",
    "device": "test_device.py",
    "tokenizer": "test_text_runs.py, languages/test_languages.py",
    "max_length": "test_text_runs.py, text/test_chat.py",
    "chat_template": "test_text_runs.py, text/test_chat.py",
    "sample_max_tokens": "tasks/test_causal_lm.py",
    "mixed_precision": "test_device.py, test_run.py",
}


class Seen:
    """A run that was stopped before its first step."""

    def __init__(self, config: TrainConfig, training: Training, planned: MemoryPlan) -> None:
        self.job: Job = job.load(config.output_dir)
        self.training = training
        self.model = cast(Any, training.model)
        self.layers = list(adapters.layers(self.model))
        self.planned = planned


def stopped(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Seen:
    caught: list[Training] = []
    told: list[Event] = []

    def catch(training: Training, studio: Studio, requests: object, emit: object) -> bool:
        caught.append(training)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "train", catch)
        assert isinstance(run.start(config, [told.append]), RunStopped)
    return Seen(config, caught[0], next(event for event in told if isinstance(event, MemoryPlan)))


def text_encoder(seen: Seen) -> str:
    """What names the base's text encoder in the keys of its conditioning."""
    tokenizer = version("transformers").partition(".")[0]
    return f"sd15-text-1:{tokenizer}:{seen.job.base.content}"


def dropouts(seen: Seen) -> list[Any]:
    return [layer.layer.lora_dropout["default"] for layer in seen.layers]


CHECKS: dict[str, tuple[Any, Callable[[Seen, TrainConfig], bool]]] = {
    "base_model": (None, lambda s, c: s.job.base.file == c.base_model),
    "train_data_dir": (None, lambda s, c: all(Path(i.path).parent == c.train_data_dir for i in s.job.items)),
    "metadata_path": (None, lambda s, c: all("of the table" in i.captions[0] for i in s.job.items)),
    "output_dir": (None, lambda s, c: job.exists(c.output_dir)),
    "cache_dir": (None, lambda s, c: s.job.cache_dir == c.cache_dir and any(cast(Path, c.cache_dir).iterdir())),
    "trigger_word": ("zwx", lambda s, c: all(i.captions[0].startswith("zwx") for i in s.job.items)),
    "exclude": (["picture 5.png"], lambda s, c: "picture 5.png" not in {Path(i.path).name for i in s.job.items}),
    "repeats": (5, lambda s, c: all(i.repeats == 5 for i in s.job.items)),
    "resolution": (64, lambda s, c: all(i.bucket == (64, 64) for i in s.job.items)),
    "validation_images": (1, lambda s, c: len(s.training.items) == 4 and len(s.job.items) == 5),
    "lora_rank": (3, lambda s, c: {layer.rank for layer in s.layers if "to_q" not in layer.name} == {3}),
    "lora_alpha": (1.5, lambda s, c: {layer.alpha for layer in s.layers if "to_k" not in layer.name} == {1.5}),
    "lora_ranks": ({"to_q": 5}, lambda s, c: {layer.rank for layer in s.layers if "to_q" in layer.name} == {5}),
    "lora_alphas": ({"to_k": 6.0}, lambda s, c: {layer.alpha for layer in s.layers if "to_k" in layer.name} == {6.0}),
    "lora_method": ("dora", lambda s, c: {layer.method for layer in s.layers} == {"dora"}),
    "lora_blocks": (["down_blocks"], lambda s, c: all(layer.name.startswith("down_blocks.") for layer in s.layers)),
    "lora_dropout": (0.25, lambda s, c: {getattr(drop, "p", 0) for drop in dropouts(s)} == {0.25}),
    "train_text_encoder": (True, lambda s, c: len(s.training.optimizer.param_groups) == 2),
    "text_encoder_learning_rate": (
        1e-5,
        lambda s, c: s.training.optimizer.param_groups[-1]["rate_scale"] == 1e-5 / c.learning_rate,
    ),
    "prediction_type": ("v_prediction", lambda s, c: s.job.base.prediction == "v_prediction"),
    "zero_terminal_snr": (True, lambda s, c: s.job.base.zero_terminal_snr),
    "clip_skip": (2, lambda s, c: s.job.empty == conditioning_key(f"{text_encoder(s)}:2", "")),
    "flip": (True, lambda s, c: all(i.flipped for i in s.job.items)),
    "prior_preservation": (0.5, lambda s, c: bool(s.job.class_prompt)),
    "class_prompt": ("a house", lambda s, c: s.job.captions().get(s.job.class_prompt) == "a house"),
    "optimizer": ("adafactor", lambda s, c: type(cast(Any, s.training.optimizer).optimizer).__name__ == "Adafactor"),
    "optimizer_args": (
        {"clip_threshold": 2.0},
        lambda s, c: s.training.optimizer.param_groups[0].get("clip_threshold") == 2.0,
    ),
    "min_snr_gamma": (3.0, lambda s, c: cast(Any, s.training.task)._objective._gamma == 3.0),
    "ema_decay": (0.875, lambda s, c: getattr(cast(Any, s.training.averages)._ema, "decay", 0) == 0.875),
    "lora_targets": ("attention", lambda s, c: all(".attn" in layer.name for layer in s.layers)),
    "batch_size": (4, lambda s, c: s.training.per_epoch == 5),  # 4 images, 5 times: 20 showings
    "epochs": (7, lambda s, c: s.training.position.total == 20),  # which max_steps cuts to 20
    "max_steps": (20, lambda s, c: s.training.position.total == 20),
    "weight_decay": (0.25, lambda s, c: s.training.optimizer.param_groups[0]["weight_decay"] == 0.25),
    "base_weights": ("fp8", lambda s, c: any(m.kind == "fp8" for m in s.model.modules() if isinstance(m, Frozen))),
    "vram_limit": (2.5, lambda s, c: s.planned.free == 2.5 * GB),
    "gradient_checkpointing": (True, lambda s, c: s.model.is_gradient_checkpointing),
}


def test_no_field_is_forgotten_here() -> None:
    # auto is no setting of its own: tests/trainer/advisor.
    assert CHECKS.keys() | ELSEWHERE.keys() | {"seed", "auto"} == TrainConfig.model_fields.keys()
    assert not CHECKS.keys() & ELSEWHERE.keys()


@pytest.fixture
def square(config: TrainConfig, picture_folder: Callable[..., Path], tmp_path: Path) -> TrainConfig:
    """Six pictures of one shape, with their captions in a table elsewhere."""
    folder = picture_folder(tmp_path / "squ\u00e4re", sizes=((128, 128),) * 6)
    for path in folder.glob("*.txt"):
        path.unlink()
    table = tmp_path / "t\u00e4ble.csv"
    rows = [f"picture {n}.png,number {n} of the table" for n in range(6)]
    table.write_text("\n".join(["filename,prompt", *rows]), encoding="utf-8")
    return config.but(
        train_data_dir=folder.as_posix(), metadata_path=table.as_posix(), cache_dir=(tmp_path / "cache").as_posix()
    )


def test_fields_reach_their_places(square: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = square.but(**{name: value for name, (value, _) in CHECKS.items() if value is not None})
    seen = stopped(config, monkeypatch)
    assert {name for name, (_, reached) in CHECKS.items() if not reached(seen, config)} == set()


def test_the_source_of_captions_reaches_the_scan(square: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    table = cast(Path, square.metadata_path)
    table.rename(square.train_data_dir / "metadata.csv")
    seen = {
        source: stopped(
            square.but(metadata_path=None, caption_source=source, output_dir=f"{square.output_dir} {source}"),
            monkeypatch,
        )
        for source in ("table", "none")
    }
    assert ["of the table" in item.captions[0] for item in seen["table"].job.items] == [True] * 6
    assert [item.captions for item in seen["none"].job.items] == [("",)] * 6


def test_without_them_it_is_otherwise(square: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above can fail: with the other values they do."""
    config = square.but(gradient_checkpointing=False, lora_alpha=None, max_steps=None)
    seen = stopped(config, monkeypatch)
    own = {name for name, (value, _) in CHECKS.items() if value is not None}
    assert {name for name, (_, reached) in CHECKS.items() if not reached(seen, config)} == own


def test_the_seed_reaches_the_adapters_and_the_draws(square: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    for number, seed in enumerate((1, 1, 2)):
        folder = square.output_dir.with_name(f"run {number}").as_posix()
        seen = stopped(square.but(seed=seed, output_dir=folder), monkeypatch)
        shown = seen.training.items[0]
        noise = cast(Any, seen.training.task)._objective.noise((4, 8, 8), 0, shown.id)
        started.append(torch.cat([noise.flatten(), *(layer.down.detach().flatten() for layer in seen.layers)]))
    assert torch.equal(started[0], started[1])
    differing = started[0] != started[2]
    assert differing[:256].any()
    assert differing[256:].any()
