"""The worker process is followed to its end, stopped with all saved, and its death is told with the reason."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPO

WORKER = """
import json, sys, time
from pathlib import Path
seq = 0
def tell(kind, **fields):
    global seq
    with open("events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"v": 1, "run": "r", "seq": seq, "t": 0, "type": kind, **fields}) + "\\n")
    seq += 1
"""


class Cancelled(BaseException):
    """As ComfyUI's: no Exception."""


@pytest.fixture
def runner(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("runner")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "Run \u00fc \u6f2b\u753b"
    folder.mkdir()
    return folder


def worker(program: str) -> list[str]:
    return [sys.executable, "-c", WORKER + program]


def test_events_come_in_order_and_the_last_is_the_outcome(runner: Any, run: Path):
    seen: list[str] = []
    program = 'tell("Phase", name="one"); tell("Unknown", x=1); tell("RunFinished", step=3, path="x.safetensors")'
    outcome = runner.work(run, lambda event: seen.append(type(event).__name__), lambda: None, worker(program))
    assert seen == ["Phase", "RunFinished"]
    assert (outcome.step, outcome.path) == (3, "x.safetensors")


def test_events_of_an_earlier_process_are_not_told_again(runner: Any, run: Path):
    program = 'tell("RunStopped", step=1, reason="as asked")'
    runner.work(run, lambda event: None, lambda: None, worker(program))
    seen: list[Any] = []
    outcome = runner.work(run, seen.append, lambda: None, worker('tell("RunFinished", step=2, path="x")'))
    assert [type(event).__name__ for event in seen] == ["RunFinished"]
    assert outcome.step == 2


def test_a_dead_worker_is_told_with_the_end_of_its_log(runner: Any, run: Path):
    with pytest.raises(Exception, match="exit code 7") as caught:
        runner.work(
            run, lambda event: None, lambda: None, worker('print("no room on the moon", flush=True); sys.exit(7)')
        )
    assert type(caught.value).__name__ == "WorkerError"
    assert "no room on the moon" in str(caught.value)
    assert "queue again" in str(caught.value)


def test_a_stop_is_heard_by_pipe_and_by_file_and_waited_for(runner: Any, run: Path):
    program = """
tell("Phase", name="training")
sys.stdin.buffer.read()
assert json.loads(Path("control.json").read_text())["stop"] is True
time.sleep(0.3)
Path("saved").touch()
tell("RunStopped", step=5, reason="as asked")
"""
    seen: list[str] = []

    def check() -> None:
        if seen == ["Phase"]:
            seen.append("cancelled")
            raise Cancelled

    with pytest.raises(Cancelled):
        runner.work(run, lambda event: seen.append(type(event).__name__), check, worker(program))
    assert (run / "saved").exists()
    assert seen == ["Phase", "cancelled", "RunStopped"]


def test_where_the_file_cannot_be_written_the_pipe_is_enough(runner: Any, run: Path):
    program = """
tell("Phase", name="training")
sys.stdin.buffer.read()
Path("saved").touch()
tell("RunStopped", step=5, reason="as asked")
"""
    (run / "control.json").mkdir(parents=True)

    def check() -> None:
        if (run / "events.jsonl").exists() and not (run / "saved").exists():
            raise Cancelled

    with pytest.raises(Cancelled):
        runner.work(run, lambda event: None, check, worker(program))
    assert (run / "saved").exists()


def test_stopping_a_second_time_ends_it_at_once(runner: Any, run: Path):
    def check() -> None:
        if (run / "events.jsonl").exists():
            raise Cancelled

    began = time.monotonic()
    with pytest.raises(Cancelled):
        runner.work(run, lambda event: None, check, worker('tell("Phase", name="deaf"); time.sleep(60)'))
    assert time.monotonic() - began < 20


def test_a_worker_that_lingers_after_its_last_word_is_ended(runner: Any, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "END_SECONDS", 0.5)
    began = time.monotonic()
    program = 'tell("RunFinished", step=1, path="x"); time.sleep(60)'
    assert runner.work(run, lambda event: None, lambda: None, worker(program)).step == 1
    assert time.monotonic() - began < 20


def test_environment_is_utf8_offline_and_without_the_hosts_allocator(runner: Any):
    own = runner.environment({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync", "PATH": "x"})
    assert own["PATH"] == "x"
    assert "cudaMallocAsync" not in own["PYTORCH_CUDA_ALLOC_CONF"] + own["PYTORCH_ALLOC_CONF"]
    assert own["PYTHONUTF8"] == "1"
    assert own["HF_HUB_OFFLINE"] == "1"


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are another thing there")
def test_a_ctrl_c_in_the_console_does_not_reach_it(runner: Any, run: Path):
    program = 'import os; Path("group").write_text(str(os.getpgrp())); tell("RunFinished", step=1, path="x")'
    runner.work(run, lambda event: None, lambda: None, worker(program))
    assert int((run / "group").read_text()) != os.getpgrp()


def test_the_worker_is_a_file_that_is_there(runner: Any, run: Path):
    python, program, *arguments = runner.command(run)
    assert python == sys.executable
    assert Path(program) == REPO / "train.py"
    assert Path(program).is_file()
    assert arguments == ["--job", str(run)]
