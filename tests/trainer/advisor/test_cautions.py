"""What is said before a training: what the guide warns of, and nothing of what it advises."""

from __future__ import annotations

from typing import Any

import pytest

from trainer import advisor, run
from trainer.advisor import Advice, Facts, Length
from trainer.config import TrainConfig, load, parse
from trainer.demo.command import config as demo_config
from trainer.events import Advised, Event
from trainer.figures import BASES
from trainer.peek import Peek, peek
from trainer.setup import presets

SD15, SDXL = (Peek(name, BASES[name]) for name in ("sd15", "sdxl"))


def of(different: int, **changes: Any) -> Facts:
    """A proper data set: different pictures, large enough, each with its caption."""
    plain = {"images": different, "captioned": different, "captions": different, "sides": (1200,) * different}
    return Facts(**{**plain, "different": different, "showings": different, **changes})


def said(config: TrainConfig, facts: Facts, base: Peek = SD15) -> list[Advice]:
    """What is said of a run that goes through all pictures."""
    trained = facts.showings - config.validation_images
    steps: float = config.epochs * -(-trained // config.window)
    shown: float = config.epochs * trained
    if config.max_steps is not None and config.max_steps < steps:
        shown, steps = shown * config.max_steps / steps, config.max_steps
    return advisor.warn(config, facts, base, Length(int(steps), shown))


def fields(found: list[Advice]) -> list[str]:
    return [advice.field for advice in found if not advice.note]


# --- what is as it should be


@pytest.mark.parametrize("pictures", [50, 100, 200])
@pytest.mark.parametrize("change", [{}, {"batch_size": 2, "gradient_accumulation_steps": 2}, {"batch_size": 2}])
def test_the_guides_own_settings_on_a_proper_set(pictures: int, change: dict[str, int]) -> None:
    assert fields(said(parse(change), of(pictures))) == []


@pytest.mark.parametrize("path", sorted(presets.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_on_a_proper_set(path: Any) -> None:
    assert fields(said(load(path), of(100), SDXL if "sdxl" in path.stem else SD15)) == []


@pytest.mark.parametrize(
    ("pictures", "epochs"), [(50, 15), (50, 20), (100, 15), (100, 20), (200, 10), (500, 10), (600, 5), (2000, 3)]
)
def test_the_guides_epochs(pictures: int, epochs: int) -> None:
    assert fields(said(parse({"epochs": epochs}), of(pictures))) == []


@pytest.mark.parametrize("rate", [1e-4, 2e-4, 3e-4, 5e-4])
def test_the_guides_rates_at_any_batch(rate: float) -> None:
    for window in (2, 4, 8):
        assert fields(said(parse({"learning_rate": rate, "batch_size": window}), of(100))) == []


@pytest.mark.parametrize("base", [SD15, SDXL])
@pytest.mark.parametrize("pictures", [1, 3, 12, 30, 60, 250, 900])
def test_what_auto_chooses(pictures: int, base: Peek) -> None:
    facts = of(pictures)
    config, _ = advisor.decide(parse({"auto": True}), facts, base, advisor.Room())
    assert fields(said(config, facts, base)) == []


def test_the_demo(tmp_path: Any) -> None:
    config = demo_config(tmp_path)
    facts = of(12, sides=(128,) * 12)
    assert said(config, facts, peek(config.base_model)) == []


# --- what the guide warns of


@pytest.mark.parametrize(
    ("settings", "field", "words", "cure"),
    [
        ({"learning_rate": 2e-6}, "learning_rate", "2e-6 is 50 times below the usual 1e-4 to 3e-4: after 20 epochs "
         "nothing would have changed", "learning_rate: 2.8e-4"),
        ({"learning_rate": 2e-2}, "learning_rate", "is 67 times above the usual 1e-4 to 3e-4", "learning_rate: 2.8e-4"),
        ({"learning_rate": 2e-4, "optimizer": "lion"}, "learning_rate", "above the usual 1e-5 to 3e-5 for lion",
         "learning_rate: 2.8e-5"),
        ({"learning_rate": 8.0, "optimizer": "prodigy"}, "learning_rate", "8 times above the usual 1 for prodigy",
         "learning_rate: 1"),
        ({"lora_rank": 64, "lora_alpha": 1.0}, "lora_alpha", "scaled by 0.02 (alpha / rank)", "lora_alpha: 64"),
        ({"batch_size": 1}, "batch_size", "which is noisy", "gradient_accumulation_steps: 4"),
        ({"epochs": 60}, "epochs", "shown 6,000 times in all; for 100 different ones 1,500 are enough", "epochs: 15"),
        ({"epochs": 2}, "epochs", "shown 200 times in all", "epochs: 15"),
        ({"max_steps": 50, "epochs": 500}, "max_steps", "shown 200 times in all", "max_steps: 375"),
        ({"warmup_steps": 200}, "warmup_steps", "200 is more than a tenth of the 250 steps; warming up over 25",
         "warmup_steps: auto"),
        ({"train_text_encoder": True, "text_encoder_learning_rate": 3e-4}, "text_encoder_learning_rate",
         "3e-4 is above learning_rate", "text_encoder_learning_rate: 1e-4"),
        ({"train_text_encoder": True, "caption_source": "none"}, "train_text_encoder", "neither a caption nor",
         "train_text_encoder: false"),
        ({"validation_images": 2, "validation_steps": 0}, "validation_images", "nothing is measured",
         "validation_steps: 100"),
        ({"optimizer": "prodigy", "learning_rate": 1.0, "max_steps": 140, "batch_size": 12}, "optimizer",
         "some fifty steps", "optimizer: adamw"),
    ],
)  # fmt: skip
def test_what_the_guide_warns_of(settings: dict[str, Any], field: str, words: str, cure: str) -> None:
    found = [advice for advice in said(parse(settings), of(100)) if not advice.note]
    assert [advice.field for advice in found] == [field]
    assert words in found[0].message
    assert found[0].cure.startswith(cure)


def test_a_high_rank_is_said_of_small_sets_alone() -> None:
    assert fields(said(parse({"lora_rank": 32, "epochs": 100}), of(12))) == ["lora_rank"]
    assert fields(said(parse({"lora_ranks": {"mid_block": 64}, "epochs": 100}), of(12))) == ["lora_rank"]
    assert fields(said(parse({"lora_rank": 31, "epochs": 100}), of(12))) == []
    assert fields(said(parse({"lora_rank": 32}), of(50))) == []
    # Of many files that look alike few are different.
    assert fields(said(parse({"lora_rank": 32, "epochs": 15}), of(12, images=100, showings=100))) == ["lora_rank"]
    assert fields(said(parse({"lora_rank": 512, "lora_method": "lokr", "epochs": 100}), of(12))) == []


def test_captions_that_are_missing_or_all_the_same() -> None:
    for change in ({"captioned": 0, "captions": 1}, {"captions": 1}):
        assert fields(said(parse({}), of(50, **change))) == ["caption_source"]
        assert fields(said(parse({"caption_source": "none"}), of(50, **change))) == []
    assert fields(said(parse({}), of(50, captioned=30, captions=20))) == []


def test_pictures_smaller_than_the_resolution() -> None:
    facts = of(50, sides=(300,) * 26 + (1200,) * 24)
    (advice,) = said(parse({"warmup_steps": "auto"}), facts)
    assert advice.message == "resolution: 26 of 50 pictures have fewer pixels than 512 x 512; none is enlarged"
    assert advice.cure == "larger pictures, or resolution: 256"
    assert fields(said(parse({}), of(50, sides=(300,) * 25 + (1200,) * 25))) == []


def test_a_small_model_is_judged_by_its_own_rates() -> None:
    tiny = SD15._replace(parameters=SD15.parameters // 400)
    assert fields(said(parse({"learning_rate": 4e-3}), of(100), tiny)) == []
    (advice,) = said(parse({"learning_rate": 4e-5, "warmup_steps": "auto"}), of(100), tiny)
    assert "50 times below the usual 2e-3 to 6e-3" in advice.message


# --- what is only noted


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({}, "warmup_steps", "100 is more than a tenth of the 250 steps; warming up over 25"),
        ({"max_steps": 300, "warmup_steps": "auto"}, "max_steps", "300 is not reached: 10 epochs are 250 steps"),
        (
            {"optimizer": "schedulefree", "lr_scheduler": "linear", "warmup_steps": "auto"},
            "lr_scheduler",
            "linear has no effect",
        ),
    ],
)
def test_what_is_only_noted(settings: dict[str, Any], field: str, words: str) -> None:
    (advice,) = said(parse(settings), of(100))
    assert (advice.field, advice.note) == (field, True)
    assert words in advice.message


def test_a_run_begins_with_what_to_mind_and_trains_all_the_same(config: TrainConfig, seen: list[Event]) -> None:
    run.start(config.but(max_steps=1, batch_size=1, lora_rank=32), [seen.append])
    told = [event for event in seen if isinstance(event, Advised)]
    assert {"batch_size", "lora_rank", "max_steps"} <= {event.field for event in told if event.kind == "warning"}
    log = (config.output_dir / "log.txt").read_text(encoding="utf-8")
    assert "warning: lora_rank: 32 learns 5 different pictures by heart\n  -> lora_rank: 8, or 16" in log
