"""The demo's command, whole but short: what it writes and tells. Its figures are in docs/measurements.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from trainer import export
from trainer.demo import command
from trainer.events import Event, RunFinished, Step


def test_the_demo_draws_trains_shows_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = command.config
    short = {"max_steps": 3, "sample_every": 0, "validation_steps": 3, "log_interval": 1}
    monkeypatch.setattr(command, "config", lambda output: settings(output).but(cache_dir=str(tmp_path / "c"), **short))
    monkeypatch.setattr(command, "SCORED_PROMPTS", 2)
    monkeypatch.setattr(command, "STEPS", 2)
    output = tmp_path / "d\u00e9mo \u6f14\u793a"
    seen: list[Event] = []
    end = command.run_demo(output, seen.append, lambda: False)

    assert isinstance(end, RunFinished)
    assert [e.step for e in seen if isinstance(e, Step)] == [1, 2, 3]
    assert len(list((output / "data").glob("*.png"))) == len(list((output / "data").glob("*.txt"))) == 12
    lora, header = export.read(output / "neon" / "neon.safetensors")
    assert export.change_norm(lora) > 0
    assert header["ss_network_dim"] == str(settings(output).lora_rank)
    for name in ("contact-sheet.png", "loss.png"):
        with Image.open(output / name) as picture:
            assert len(picture.convert("L").getcolors(256) or []) > 20, f"{name} shows nothing"
    scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    assert list(scores) == ["0", "0.4", "0.8", "1"]
    assert all(0 <= share <= 1 for row in scores.values() for share in row.values())
    told = capsys.readouterr().out
    assert "strength   neon style   shape as asked   colour as asked" in told
    assert "contact-sheet.png" in told

    seen.clear()
    assert isinstance(command.run_demo(output, seen.append, lambda: False), RunFinished)
    assert not [e for e in seen if isinstance(e, Step)], "a second demo trains nothing anew"


def test_the_demo_s_settings_are_an_ordinary_config(tmp_path: Path) -> None:
    settings = command.config(tmp_path)
    assert settings.base_model.is_file()
    assert settings.task_type == "image-generation"
