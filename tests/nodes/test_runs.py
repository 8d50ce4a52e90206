"""A run is found again for every length that it once finished with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUN = "0123456789ab"


@pytest.fixture
def runs(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("runs")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs \u00fc \u6f2b\u753b"


def trained(folder: Path, steps: int, *, finished: bool = True) -> None:
    """What the trainer leaves behind after so many steps."""
    place = folder / "checkpoints" / f"step-{steps:06d}"
    place.mkdir(parents=True)
    (place / "complete.json").write_text("{}")
    if finished:
        (folder / "lora.safetensors").write_text(f"{steps} steps")
        result = {"total": steps, "step": steps, "path": "lora.safetensors", "run": RUN}
        (folder / "result.json").write_text(json.dumps(result))


def test_a_new_run_has_no_result(runs: Any, root: Path):
    assert runs.find(root, RUN, 12) == runs.Found(root / RUN, None)


def test_a_finished_run_is_found(runs: Any, root: Path):
    trained(root / RUN, 12)
    found = runs.find(root, RUN, 12)
    assert found.folder == root / RUN
    assert found.result.read_text() == "12 steps"
    assert found.steps == 12


def test_more_steps_extend_it_in_place_and_the_former_length_stays(runs: Any, root: Path):
    trained(root / RUN, 12)
    assert runs.find(root, RUN, 18) == runs.Found(root / RUN, None)
    runs.keep_finished(root / RUN)
    runs.keep_finished(root / RUN)
    trained(root / RUN, 18)
    for steps in (12, 18):
        found = runs.find(root, RUN, steps)
        assert found.folder == root / RUN
        assert found.result.read_text() == f"{steps} steps"
        assert found.steps == steps


def test_a_shorter_length_that_never_finished_is_trained_beside_it(runs: Any, root: Path):
    trained(root / RUN, 12)
    found = runs.find(root, RUN, 9)
    assert found == runs.Found(root / f"{RUN}-9", None)
    trained(found.folder, 9)
    assert runs.find(root, RUN, 9).result.read_text() == "9 steps"
    assert runs.find(root, RUN, 12).result.read_text() == "12 steps"


def test_an_interrupted_run_goes_on_in_place(runs: Any, root: Path):
    trained(root / RUN, 6, finished=False)
    assert runs.find(root, RUN, 12) == runs.Found(root / RUN, None)
    assert runs.find(root, RUN, 5).folder == root / f"{RUN}-5"
