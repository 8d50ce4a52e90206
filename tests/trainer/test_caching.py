"""The command ``cache``: what it encodes, and that parts of it come to the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import caching, families
from trainer import config as configs
from trainer.__main__ import DONE, MISTAKE, main
from trainer.config import TrainConfig
from trainer.errors import ConfigError, UserError
from trainer.events import Phase
from trainer.prepare import StoppedWhilePreparing


@pytest.fixture
def config(tmp_path: Path, picture_folder: Callable[..., Path]) -> TrainConfig:
    return configs.parse(
        {
            "base_model": families.get("sd15").tiny(tmp_path / "tiny.safetensors", 0).as_posix(),
            "train_data_dir": picture_folder(tmp_path / "data", sizes=[(64, 64)] * 5).as_posix(),
            "output_dir": (tmp_path / "run").as_posix(), "cache_dir": (tmp_path / "cache").as_posix(),
            "resolution": 64, "flip": True, "sample_every": 0, "validation_steps": 0, "device": "cpu",
        }
    )  # fmt: skip


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/??/*.safetensors")}


def never() -> bool:
    return False


def test_the_parts_are_disjoint_and_come_to_the_whole(config: TrainConfig, tmp_path: Path) -> None:
    whole = caching.fill(config, lambda event: None, never)
    assert (whole.pictures, whole.missing) == (10, 0)  # each once more in the mirror
    parts = [config.but(cache_dir=(tmp_path / f"part {one}").as_posix()) for one in range(3)]
    for number, part in enumerate(parts, 1):
        done = caching.fill(part, lambda event: None, never, (number, 3))
        assert done.missing == len(entries(whole.folder)) - len(entries(done.folder)) > 0
    found = [entries(tmp_path / f"part {one}") for one in range(3)]
    assert sum(map(len, found)) == len(set().union(*found))
    assert set().union(*found) == entries(whole.folder)


def test_a_part_that_is_there_is_not_encoded_again_and_a_stop_keeps_what_is(config: TrainConfig) -> None:
    seen: list[object] = []
    with pytest.raises(StoppedWhilePreparing):
        caching.fill(config, seen.append, lambda: sum(isinstance(e, Phase) and "images" in e.name for e in seen) >= 3)
    kept = caching.fill(config, lambda event: None, never)
    assert (kept.pictures, kept.captions, kept.missing) == (7, 0, 0)
    again = caching.fill(config, lambda event: None, never)
    assert (again.pictures, again.captions, again.missing) == (0, 0, 0)


def test_the_command_says_what_is_missing(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert main(["cache", "--config", str(path), "--shard", "1/2"]) == DONE
    assert "entries are still missing" in capsys.readouterr().out
    assert main(["cache", "--config", str(path), "--shard", "2/2"]) == DONE
    assert "it holds all that the run will read" in capsys.readouterr().out
    assert not config.output_dir.exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2", ""])
def test_a_part_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="such as 2/4"):
        caching.shard(text)


def test_texts_and_several_processes_are_refused(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="texts are not encoded ahead"):
        caching.fill(config.but(flip=False, task_type="text-generation"), lambda event: None, never)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["cache", "--config", str(tmp_path / "any.yaml")]) == MISTAKE
