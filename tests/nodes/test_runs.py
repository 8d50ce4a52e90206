"""A run is found again for every length that it once finished with."""

from __future__ import annotations

import errno
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


def saved(folder: Path, steps: int) -> None:
    """A checkpoint."""
    place = folder / "checkpoints" / f"step-{steps:06d}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "complete.json").write_text("{}")
    (place / "lora.safetensors").write_text(f"checkpoint {steps}")


def trained(folder: Path, steps: int, *, finished: bool = True, total: int = 0, **more: Any) -> None:
    """What the trainer leaves behind after so many steps."""
    saved(folder, steps)
    if finished:
        (folder / "lora.safetensors").write_text(f"{steps} steps")
        result = {"total": total or steps, "step": steps, "path": "lora.safetensors", "run": RUN, **more}
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


def test_the_best_checkpoint_is_handed_on_and_the_last_where_that_is_gone(runs: Any, root: Path):
    trained(root / RUN, 12, best={"step": 8, "reason": "better", "path": "checkpoints/step-000008/lora.safetensors"})
    assert runs.find(root, RUN, 12).best == (12, root / RUN / "lora.safetensors", "")
    saved(root / RUN, 8)
    step, file, why = runs.find(root, RUN, 12).best
    assert (step, file.read_text(), why) == (8, "checkpoint 8", "better")
    runs.keep_finished(root / RUN)
    trained(root / RUN, 18, best={"step": 18, "reason": "the last", "path": "lora.safetensors"})
    assert runs.find(root, RUN, 12).best[:2] == (8, file)
    assert runs.find(root, RUN, 18).best == (18, root / RUN / "lora.safetensors", "")


def test_a_run_that_was_stopped_early_is_returned_and_goes_on_for_more_patience(runs: Any, root: Path):
    stopped: dict[str, Any] = {"stopped": {"patience": 2, "reason": "no better"}}
    trained(root / RUN, 7, total=12, **stopped)
    assert runs.find(root, RUN, 12, 2).steps == 7
    assert runs.find(root, RUN, 12, 0) == runs.find(root, RUN, 12, 3) == runs.Found(root / RUN, None)
    runs.keep_finished(root / RUN)
    trained(root / RUN, 10, total=18, **stopped)
    assert runs.find(root, RUN, 12, 2).steps == 7, "it is there though the run was given another length"
    runs.keep_finished(root / RUN)
    trained(root / RUN, 18)
    runs.keep_finished(root / RUN)
    trained(root / RUN, 24)
    assert runs.find(root, RUN, 18, 0).steps == 18, "the whole length takes the place of the one that was stopped"


def test_a_length_that_was_half_kept_is_kept_at_the_next_try(runs: Any, root: Path, monkeypatch: pytest.MonkeyPatch):
    trained(root / RUN, 12)

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs.shutil, "copy2", full)
        with pytest.raises(Exception, match=r"12 steps cannot be kept in .*: No space left on device") as caught:
            runs.keep_finished(root / RUN)
    assert "free some space" in caught.value.cure  # type: ignore[attr-defined]
    runs.keep_finished(root / RUN)
    trained(root / RUN, 18)
    assert runs.find(root, RUN, 12).result.read_text() == "12 steps"


def test_best_is_a_step_like_any_other(runs: Any):
    there = {100: Path(), 200: Path(), 300: Path()}
    assert runs.choose_steps(there, "Best, 100, last", 200) == [200, 100, 300]
    assert runs.choose_steps(there, "best") == runs.choose_steps(there, "best", 150) == [300]
