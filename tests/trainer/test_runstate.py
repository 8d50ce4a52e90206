"""How runs stand, read from their folders: each state, cheaply, and without a path of the machine."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer import runstate, yaml_text
from trainer.config import TrainConfig
from trainer.events import (
    Event,
    Journal,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Step,
    Validation,
    Warned,
)
from trainer.lock import locked

RUN = "0123456789ab"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs \u00fc \u6f2b\u753b"


def begun(step: int = 0, total: int = 40) -> RunStarted:
    return RunStarted("x", step, total, 10, 12, 4, 100, 1000, "cpu", "fp32", seconds=120.0)


def step(number: int, loss: float = 0.5, total: int = 40) -> Step:
    return Step(number, total, 1, loss, 1e-4, 1.0, 0.5, 1, eta=0.5 * (total - number))


def write_run(folder: Path, *told: Event, checkpoints: tuple[int, ...] = (), finished: tuple[int, ...] = ()) -> Path:
    """A run folder as the trainer leaves it; of several finished lengths all but the last are kept below."""
    config = TrainConfig(
        train_data_dir=folder.parents[1] / "my \u6f2b\u753b", base_model=Path("/models/sd.safetensors")
    )
    folder.mkdir(parents=True)
    data = {"version": 2, "run": folder.name, "base": {"family": "sd15"}, "config": config.to_plain()}
    (folder / "job.yaml").write_text(yaml_text.dumps(data), encoding="utf-8")
    if told:
        journal = Journal(folder / "events.jsonl", folder.name)
        for event in told:
            journal(event)
        journal.close()
    for number in checkpoints:
        place = folder / "checkpoints" / f"step-{number:06d}"
        place.mkdir(parents=True)
        (place / "complete.json").write_text("{}")
    for number in finished:
        place = folder if number == finished[-1] else folder / "finished" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        (place / "lora.safetensors").write_text(f"{number} steps")
        result = {"total": number, "step": number, "path": "lora.safetensors", "run": folder.name}
        (place / "result.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((begun(), step(10), step(20), RunFinished(20, "x")), ("finished", 20, 40, 0.5, 0.0)),
        ((begun(), step(10, 0.25), RunStopped(12, "asked")), ("stopped", 12, 40, 0.25, 0.0)),
        ((begun(), step(10), RunFailed("no")), ("failed", 10, 40, 0.5, 0.0)),
        ((RunFailed("no"),), ("failed", 0, 0, None, 0.0)),
        ((begun(), step(10), RunFinished(10, "x"), begun(10, 60)), ("stopped", 10, 60, None, 0.0)),
        ((begun(), step(10), Warned("!")), ("stopped", 10, 40, 0.5, 0.0)),
        ((), ("stopped", 0, 0, None, 0.0)),
    ],
)
def test_the_states(root: Path, told: tuple[Event, ...], expected: tuple[Any, ...]) -> None:
    found = runstate.state(write_run(root / RUN, *told))
    assert (found.state, found.step, found.total, found.loss, found.seconds_left) == expected
    assert (found.id, found.name, found.family) == (RUN, "my \u6f2b\u753b", "sd15")
    assert abs(found.started - time.time()) < 60 or not told
    assert found.ended >= found.started


def test_a_run_is_running_as_long_as_its_folder_is_held(root: Path) -> None:
    folder = write_run(root / RUN, begun(), step(10, float("nan")))
    with locked(folder):
        found = runstate.state(folder)
        assert (found.state, found.seconds_left, found.loss, found.ended) == ("running", 15.0, None, 0.0)
    assert runstate.state(folder).state == "stopped"


def test_what_can_be_loaded(root: Path) -> None:
    folder = write_run(root / RUN, checkpoints=(10, 20, 30), finished=(20, 30))
    (folder / "checkpoints" / "step-000040").mkdir()  # not complete
    found = runstate.state(folder)
    assert (found.checkpoints, found.finished, found.loadable) == ((10, 20, 30), (20, 30), True)
    assert [(steps, path.read_text()) for steps, path in runstate.lengths(folder).items()] == [
        (20, "20 steps"), (30, "30 steps"),
    ]  # fmt: skip
    assert not runstate.state(write_run(root / "empty")).loadable


def test_the_newest_comes_first_and_other_folders_are_passed_over(root: Path) -> None:
    assert runstate.every(root) == []
    for name in ("b", "a", "c"):
        write_run(root / name, begun())
        time.sleep(0.02)
    (root / "something else").mkdir()
    assert [found.id for found in runstate.every(root)] == ["c", "a", "b"]


def test_a_damaged_folder_gives_what_can_be_read(root: Path) -> None:
    folder = write_run(root / RUN, begun(), step(3))
    (folder / "job.yaml").write_text("config: [")
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"half a \xff')
    found = runstate.state(folder)
    assert (found.name, found.family, found.step) == (runstate.WIRED, "", 3)
    assert runstate.details(folder)["config"] == {}


def test_a_data_set_without_a_name_of_its_own_is_called_by_what_it_is(root: Path) -> None:
    folder = write_run(root / RUN, begun())
    config = TrainConfig(train_data_dir=root / ("0123456789abcdef" * 2)).to_plain()
    (folder / "job.yaml").write_text(yaml_text.dumps({"config": config}), "utf-8")
    assert runstate.state(folder).name == runstate.PICTURES


def test_details_have_no_path_of_the_machine(root: Path) -> None:
    folder = root / RUN
    data = root.parent / "my \u6f2b\u753b"
    told = (
        Warned(f"{data / '1.png'} cannot be read"),
        *(Warned(f"warning {number}") for number in range(20)),
        Validation(10, "held_out", 0.5),
        Validation(20, "held_out", float("inf")),
        RunFailed(f"cannot write {folder / 'log.txt'}", f"free space in {root.parent}/", details="Traceback"),
    )
    found = runstate.details(write_run(folder, begun(), *told))
    assert str(root.parent) not in json.dumps(found, ensure_ascii=False)
    assert found["validation"] == [
        {"step": 10, "signal": "held_out", "loss": 0.5},
        {"step": 20, "signal": "held_out", "loss": None},
    ]
    assert found["warnings"] == [f"warning {number}" for number in range(12, 20)]
    assert found["failure"] == {"message": f"cannot write {RUN}/log.txt", "cure": "free space in "}
    assert (found["config"]["train_data_dir"], found["config"]["base_model"]) == ("my \u6f2b\u753b", "sd.safetensors")
    assert (found["state"], found["checkpoints"]) == ("failed", [])
    json.dumps(found, allow_nan=False)


def test_what_is_remembered_follows_the_files(root: Path) -> None:
    folder = write_run(root / RUN, begun(), step(1))
    assert runstate.state(folder).step == 1
    journal = Journal(folder / "events.jsonl", RUN)
    journal(step(2))
    journal(Validation(2, "train", 0.25))
    journal.close()
    assert runstate.state(folder).step == 2
    assert len(runstate.details(folder)["validation"]) == 1


def test_of_long_stories_only_the_end_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(root / RUN, begun(total=9000), *(step(n, total=9000) for n in range(1, 9000)), Phase("x" * 500))
    size = (folder / "events.jsonl").stat().st_size
    decoded = []
    monkeypatch.setattr(runstate.events, "decode", lambda line, known=runstate.events.decode: (
        decoded.append(len(line)), known(line))[1])  # fmt: skip
    found = runstate.state(folder)
    assert (found.step, found.total) == (8999, 9000)
    assert sum(decoded) < 2000 < size
    assert runstate.state(folder) == replace(found, ended=runstate.state(folder).ended)
