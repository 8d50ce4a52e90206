"""The command sweep: runs of one field's values, checked first, found again, told side by side."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from trainer import events, sweep
from trainer.__main__ import main
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.events import Event, RunStarted, Sample


@pytest.fixture
def short(config: TrainConfig) -> TrainConfig:
    """Two steps, a picture held out, and a sample."""
    return config.but(
        max_steps=2, validation_images=2, sample_prompts=["a house"], sample_inference_steps=1, save_steps=1000
    )


def test_fields_and_values_are_read_as_in_yaml() -> None:
    assert sweep.read("lora_rank=4,8, 16") == ("lora_rank", [4, 8, 16])
    assert sweep.read("learning_rate=1e-4,2e-4")[1] == [1e-4, 2e-4]
    assert sweep.read("lora_blocks=[mid_block],[up_blocks.1, mid_block]")[1] == [
        ["mid_block"],
        ["up_blocks.1", "mid_block"],
    ]
    for text in ("lora_rank", "=4,8"):
        with pytest.raises(ConfigError, match="expected FIELD=VALUE"):
            sweep.read(text)


def test_every_run_is_checked_before_the_first_begins(short: TrainConfig) -> None:
    found = sweep.plan(short, "lora_rank", [4, 8])
    assert [run.lora_rank for run in found.runs] == [4, 8]
    assert [run.name for run in found.runs] == [f"{short.name}-lora_rank-{n}" for n in (4, 8)]
    assert all(run.output_dir.parent == short.resolved().output_dir for run in found.runs)
    assert all(run.validation_steps and run.sample_every for run in found.runs)
    with pytest.raises(ConfigError) as error:
        sweep.plan(short, "lora_rank", [4, "x", 0])
    assert len(error.value.problems) == 2
    for field, values in (("output_dir", ["a", "b"]), ("lora_rnak", [4, 8]), ("lora_rank", [4])):
        with pytest.raises(ConfigError, match="expected"):
            sweep.plan(short, field, values)


def test_a_sweep_is_told_and_found_again(
    short: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(short.to_yaml(), encoding="utf-8")
    assert main(["sweep", "--config", str(file), "--vary", "lora_rank=2,8"]) == 0
    root = short.output_dir
    rows = list(csv.DictReader((root / "sweep-lora_rank.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["lora_rank"] for row in rows] == ["2", "8"]
    assert int(rows[0]["bytes"]) < int(rows[1]["bytes"])
    assert all(float(row["held_out"]) > 0 and float(row["drift"]) > 0 for row in rows)
    assert (root / "sweep-lora_rank.png").is_file()
    said = capsys.readouterr().out
    assert "lora_rank 8 (2 of 2)" in said
    assert "keep lora_rank" in said

    def starts() -> int:
        return sum(
            isinstance(event, RunStarted) for log in root.glob("*/events.jsonl") for event in events.read(log)[0]
        )

    before = starts()
    assert main(["sweep", "--config", str(file), "--vary", "lora_rank=2,8"]) == 0
    assert starts() == before
    # 8 is the default: what another sweep trained is the same run.
    assert main(["sweep", "--config", str(file), "--vary", "learning_rate=1e-3,1e-4"]) == 0
    assert starts() == before + 1


def test_a_stop_ends_the_sweep_and_the_same_command_goes_on(short: TrainConfig) -> None:
    found = sweep.plan(short, "lora_rank", [2, 4])
    seen: list[Event] = []
    stopped = lambda: any(isinstance(event, Sample) for event in seen)  # noqa: E731 - the first run is at its end
    assert sweep.start(found, [seen.append], stopped, lambda line: None) is None
    seen.clear()
    trials = sweep.start(found, [seen.append], lambda: False, lambda line: None)
    assert trials is not None
    assert sum(isinstance(event, RunStarted) for event in seen) == 1
    assert [one.failure for one in trials] == ["", ""]
