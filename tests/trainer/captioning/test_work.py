"""A captioning as a file: the worker does what it says, tells it in events, and ends in exactly one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.trainer.captioning.slow import Slow, said
from tests.trainer.captioning.test_stops import pictures, rows
from trainer import control, events
from trainer.captioning import all_captioners
from trainer.captioning.base import Tagging, Wish
from trainer.captioning.rules import Rules
from trainer.captioning.work import JOB, REPORT, Job, load, tags, work
from trainer.events import Captioned, Event, Phase, RunFailed, RunFinished, RunStopped


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six pictures."""
    folder = tmp_path / "b\u00fccher \u6f2b"
    pictures(folder, 6)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slow:
    captioner = Slow(tmp_path / "said", batch=2)
    monkeypatch.setitem(all_captioners(), "slow", captioner)
    return captioner


def told(run: Path) -> list[Event]:
    return events.read(run / "events.jsonl")[0]


def test_a_job_comes_back_whole(run: Path) -> None:
    tagging = Tagging(0.1, 0.2, True, True, ("a b", "c"), ("d",))
    job = Job(
        "/data/\u6f2b", "out.csv", "slow", "all", "txt", Wish("sks", "style", "What?", "long", tagging),
        Rules("a", "b", (("c", "d"), ("e", ""))), "owner/name", ("/one", "/two"), True, "cuda:1", 4,
    )  # fmt: skip
    job.save(run)
    assert load(run) == job
    assert not set(vars(job)) - set(json.loads((run / JOB).read_text("utf-8")))


def test_tags_have_commas_between() -> None:
    assert tags(" a, b c ,,d,") == ("a", "b c", "d")
    assert tags("") == ()


def test_the_end_is_told_last_and_the_report_is_there(run: Path, data: Path, slow: Slow) -> None:
    Job(str(data), method="slow", device="cpu").save(run)
    end = work(run, lambda: False)
    assert end == RunFinished(6, str(data / "metadata.csv"))
    story = told(run)
    assert story[-1] == end
    assert [event.done for event in story if isinstance(event, Captioned)] == [2, 4, 6]
    assert sum(event.terminal for event in story) == 1
    assert (run / REPORT).read_text("utf-8").startswith("6 captions written to ")


@pytest.mark.parametrize("by", ["file", "pipe"])
def test_a_stop_is_heard_between_batches(run: Path, data: Path, slow: Slow, by: str) -> None:
    Job(str(data), method="slow", device="cpu").save(run)
    if by == "file":
        control.write(run / "control.json", control.Requests(stop=True))
    end = work(run, lambda: by == "pipe")
    assert end == RunStopped(2, "as asked")
    assert len(rows(data / "metadata.csv")) == 2
    (run / "control.json").unlink(missing_ok=True)
    assert work(run, lambda: False) == RunFinished(4, str(data / "metadata.csv"))
    assert len(said(slow.log)) == 6


def test_a_mistake_is_told_with_its_cure(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(all_captioners(), "slow", Slow(tmp_path / "said", models=("darkroom-tests/slow",)))
    Job(str(data), method="slow", device="cpu", model="/not/there").save(run)
    end = work(run, lambda: False)
    assert end == RunFailed("model: /not/there does not exist", "Check the path, or leave it empty.", True)


def test_a_fault_is_told_with_its_trace(run: Path, data: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[str]:
        raise ZeroDivisionError("no number")

    monkeypatch.setattr(slow, "caption", broken)
    Job(str(data), method="slow", device="cpu").save(run)
    end = work(run, lambda: False)
    assert isinstance(end, RunFailed)
    assert end.message == "ZeroDivisionError: no number"
    assert "in broken" in end.details
    assert not end.user
    assert told(run)[-1] == end


def test_the_model_is_told_before_it_is_loaded(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models" / "my slow"
    model.mkdir(parents=True)
    (model / "slow.json").touch()
    monkeypatch.setitem(all_captioners(), "slow", Slow(tmp_path / "said", models=("darkroom-tests/slow",)))
    Job(str(data), method="slow", device="cpu", folders=(str(model.parent),)).save(run)
    assert isinstance(work(run, lambda: False), RunFinished)
    assert told(run)[0] == Phase(f"loading the model {model}")


def test_the_workers_program(run: Path, data: Path) -> None:
    """As the node starts it: a file, with the job's folder, from anywhere; the pipe's end is a stop."""
    Job(str(data), method="filename", device="cpu").save(run)
    command = [sys.executable, str(REPO / "train.py"), "--captions", str(run)]
    # Captioners without a model are done in one batch, so that the stop at the pipe's end comes too late.
    done = subprocess.run(command, cwd=run, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert isinstance(told(run)[-1], RunFinished)
    assert [prompt for _, prompt in rows(data / "metadata.csv")] == ["\u7eff"] * 6


@pytest.mark.parametrize(
    ("error", "message", "cure"),
    [
        (OSError(28, "No space left on device", "/data/a.txt"), "/data/a.txt: No space left on device", "the disk"),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory: CUDA out of memory. Tried", "a smaller model"),
        (KeyError("tokens"), "KeyError: 'tokens'", "see the log"),
    ],
)
def test_what_ended_it_is_said_in_words_with_what_to_do(
    run: Path, data: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str, cure: str
) -> None:
    def fail(*_: object) -> list[str]:
        raise error

    monkeypatch.setattr(slow, "open", fail)
    Job(str(data), method="slow", device="cpu").save(run)
    end = work(run, lambda: False)
    assert isinstance(end, RunFailed)
    assert end.message == message
    assert cure in end.cure
    assert not end.user
    assert "Traceback" in end.details
