"""A toy base and folders of pictures, for everything in ``trainer/``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from trainer import families, rehearsal, validation
from trainer.config import TrainConfig, parse
from trainer.events import Event

# The same examples every time, and no clock: a busy machine must not turn a test red.
settings.register_profile("darkroom", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("darkroom")

SIZES = ((128, 128), (128, 128), (256, 64), (64, 256), (130, 140))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in SD1.5's architecture at toy size, with random weights."""
    path = tmp_path_factory.mktemp("b\u00e4se \u6a21\u578b") / "tiny base.safetensors"
    return families.get("sd15").tiny(path, 0)


@pytest.fixture
def picture_folder() -> Callable[..., Path]:
    """Makes a folder of captioned pictures: ``picture_folder(folder, sizes=..., seed=0)``."""

    def make(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        for index, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"picture {index}.png")
            (folder / f"picture {index}.txt").write_text(f"picture number {index}", encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests: entries are keyed by content, so sharing it changes nothing but the time."""
    return tmp_path_factory.mktemp("c\u00e4che")


@pytest.fixture
def config(tmp_path: Path, tiny_base: Path, cache_dir: Path, picture_folder: Callable[..., Path]) -> TrainConfig:
    """A short run on five pictures of three shapes."""
    return parse(
        {
            "base_model": tiny_base.as_posix(),
            "train_data_dir": picture_folder(tmp_path / "d\u00e4ta \u56fe\u7247").as_posix(),
            "output_dir": (tmp_path / "out put" / "my st\u00fcle").as_posix(),
            "cache_dir": cache_dir.as_posix(),
            "resolution": 128,
            "batch_size": 2,
            "epochs": 5,
            "learning_rate": 1e-3,
            "mixed_precision": "no",
            "save_steps": 4,
            "validation_steps": 0,
            "sample_every": 0,
            "log_interval": 1,
        }
    )


@pytest.fixture(autouse=True)
def _every_run_tries_a_step(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Whatever other tests have measured, who share the cache. ``knows`` has it as it is."""
    if "knows" not in request.fixturenames:
        monkeypatch.setattr(rehearsal.Known, "find", lambda known: None)


@pytest.fixture
def knows() -> None:
    """What was measured before is not measured again."""


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations may take whatever they take: how often there is one does not depend on the machine."""
    monkeypatch.setattr(validation, "SHARE", 1e9)


@pytest.fixture
def seen() -> list[Event]:
    """A sink: ``sinks=[seen.append]``."""
    return []
