"""Runs wait in a queue on disk, and are trained one after the other by a thread that gives the card to every prompt."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPO
from tests.trainer.test_runfolder import make

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker of these tests locks by fcntl")
ONE, TWO, THREE = "111111111111", "222222222222", "333333333333"

# A worker that trains nothing, but saves every step, and hears what a worker hears. `diary` is one file for all runs.
WORKER = """
import fcntl, json, sys, threading, time
from pathlib import Path

folder, diary = Path.cwd(), Path(sys.argv[1])
orphan = threading.Event()
def listen():
    sys.stdin.buffer.read()
    orphan.set()
threading.Thread(target=listen, daemon=True).start()

def tell(kind, **fields):
    with open("events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"v": 1, "run": "r", "seq": 0, "t": time.time(), "type": kind, **fields}) + "\\n")

def note(what):
    with diary.open("a") as file:
        file.write(f"{what} {folder.name}\\n")

def asked(what):
    try:
        return json.loads(Path("control.json").read_text()).get(what)
    except FileNotFoundError:
        return False

lock = open("run.lock", "a")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
Path("control.json").unlink(missing_ok=True)
done = int(Path("done").read_text()) if Path("done").exists() else 0
total = int(Path("steps").read_text())
note(f"from {done}")
if total < 0:
    tell("RunFailed", message=f"{folder}: no cat in the pictures", cure="add one", user=True)
    sys.exit(1)
while done < total:
    time.sleep(0.02)
    done += 1
    Path("done").write_text(str(done))
    tell("Phase", name="training", done=done)
    if asked("stop") or orphan.is_set():
        note("stopped")
        tell("RunStopped", step=done, reason="as asked")
        sys.exit(0)
    if (asked("pause") or asked("give_way")) and done < total:
        note("paused")
        tell("Phase", name="paused")
        while (asked("pause") or asked("give_way")) and not asked("stop"):
            time.sleep(0.02)
        tell("Phase", name="training")
        note("resumed")
Path("a.safetensors").touch()
Path("result.json").write_text(json.dumps({"total": 12, "step": 12, "path": "a.safetensors"}))
note("finished")
tell("RunFinished", step=done, path="a.safetensors")
"""

# Another ComfyUI: adds the runs that it is given, and works until it is killed.
OTHER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.nodes.test_background import Comfy, foreman_in
from tests.nodes.conftest import loader
foreman = foreman_in(Path(sys.argv[2]), Comfy(), loader())
for run in sys.argv[3:]:
    foreman.add(run)
print("added", flush=True)
time.sleep(600)
"""


class Comfy:
    """ComfyUI, as the thread sees it."""

    def __init__(self) -> None:
        self.executing = False
        self.told: list[Any] = []
        self.watched = False

    def busy(self) -> bool:
        return self.executing

    def interrupted(self) -> bool:
        return False

    def leave_card(self) -> None:
        pass

    def watch(self, on: bool) -> None:
        self.watched = on

    def follow(self, folder: Path) -> Any:
        return self

    def __call__(self) -> None:
        pass

    def close(self) -> None:
        pass

    def ended(self, folder: Path, end: Any) -> None:
        self.told.append((folder.name, type(end).__name__))

    def plain(self, folder: Path, text: str) -> str:
        return text.replace(str(folder), folder.name)


def foreman_in(folder: Path, comfy: Comfy, load: Callable[[str], ModuleType], changed: Any = lambda: None) -> Any:
    foreman, queue, runner = load("foreman"), load("runqueue"), load("runner")
    command = [sys.executable, "-c", WORKER, str(folder / "diary")]
    work = partial(runner.work, arguments=command)
    return foreman.Foreman(queue.RunQueue(folder), folder / "runs", comfy, changed, work)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "user \u00fc \u6f2b\u753b"
    place.mkdir()
    return place


@pytest.fixture
def comfy() -> Comfy:
    return Comfy()


@pytest.fixture
def foreman(
    folder: Path, comfy: Comfy, load_node_file: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setattr(load_node_file("foreman"), "OTHERS_SECONDS", 0.1)
    foreman = foreman_in(folder, comfy, load_node_file)
    yield foreman
    comfy.executing = False
    for run in (ONE, TWO, THREE):
        foreman.remove(run)
    until(lambda: foreman._thread is None)


def prepared(folder: Path, run: str, steps: int = 3) -> str:
    """A run of which all is there: of 12 steps by its job, of so many as the worker of these tests sees it."""
    place = folder / "runs" / run
    make(place).save(place)
    (place / "steps").write_text(str(steps))
    return run


def until(what: Callable[[], Any], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def diary(folder: Path) -> list[str]:
    file = folder / "diary"
    return file.read_text().splitlines() if file.exists() else []


def done(folder: Path, run: str) -> int:
    file = folder / "runs" / run / "done"
    return int(file.read_text() or 0) if file.exists() else 0


def test_runs_are_trained_one_after_the_other_in_their_order(folder: Path, foreman: Any, comfy: Comfy):
    for run in (TWO, ONE, THREE, TWO):
        foreman.add(prepared(folder, run))
    until(lambda: foreman.told()["running"] == TWO)
    assert (foreman.told()["waiting"], comfy.watched) == ([ONE, THREE], True)
    until(lambda: len(comfy.told) == 3)
    assert diary(folder) == [f"{what} {run}" for run in (TWO, ONE, THREE) for what in ("from 0", "finished")]
    until(lambda: not comfy.watched)
    assert foreman.told() == {"running": None, "paused": False, "waiting": [], "failed": [], "note": ""}


def test_one_that_waits_comes_earlier_or_later_but_not_before_the_one_at_work(folder: Path, foreman: Any):
    foreman.add(prepared(folder, ONE, 5000))
    until(lambda: foreman.told()["running"] == ONE)
    foreman.add(prepared(folder, TWO))
    foreman.add(prepared(folder, THREE))
    foreman.move(THREE, -1)
    assert foreman.told()["waiting"] == [THREE, TWO]
    foreman.move(THREE, -1)
    foreman.move(ONE, 1)
    assert (foreman.told()["running"], foreman.told()["waiting"]) == (ONE, [THREE, TWO])
    foreman.move(THREE, 1)
    foreman.move(THREE, 1)
    assert foreman.told()["waiting"] == [TWO, THREE]


def test_one_that_fails_leaves_with_its_reason_and_the_next_goes_on(folder: Path, foreman: Any, comfy: Comfy):
    foreman.add(prepared(folder, ONE, -1))
    foreman.add(prepared(folder, TWO))
    until(lambda: len(comfy.told) == 2)
    (failed,) = foreman.told()["failed"]
    assert (failed["run"], failed["message"], failed["cure"]) == (ONE, f"{ONE}: no cat in the pictures", "add one")
    assert comfy.told == [(ONE, "UserError"), (TWO, "RunFinished")]
    prepared(folder, ONE)
    foreman.add(ONE)
    assert foreman.told()["failed"] == [], "it is tried again"
    until(lambda: comfy.told[2:] == [(ONE, "RunFinished")])


def test_one_whose_worker_dies_or_whose_folder_is_gone_leaves_too(folder: Path, foreman: Any, comfy: Comfy):
    prepared(folder, ONE)
    (folder / "runs" / ONE / "steps").write_text("nonsense")
    prepared(folder, THREE)
    (folder / "runs" / THREE / "job.yaml").write_text("{")
    for run in (ONE, TWO, THREE):
        foreman.add(run)
    until(lambda: len(comfy.told) == 3)
    died, gone, broken = foreman.told()["failed"]
    assert "invalid literal for int()" in died["message"]
    assert gone["message"] == "the run's folder is gone"
    assert "job.yaml" in broken["message"]
    assert [one["run"] for one in (died, gone, broken)] == [ONE, TWO, THREE]


def test_one_that_is_removed_while_it_waits_is_never_begun(folder: Path, foreman: Any, comfy: Comfy):
    foreman.add(prepared(folder, ONE, 20))
    foreman.add(prepared(folder, TWO))
    foreman.remove(TWO)
    until(lambda: comfy.told and foreman.told()["running"] is None)
    assert diary(folder) == [f"from 0 {ONE}", f"finished {ONE}"]


def test_one_that_is_removed_at_work_saves_and_the_next_goes_on(folder: Path, foreman: Any):
    foreman.add(prepared(folder, ONE, 5000))
    foreman.add(prepared(folder, TWO))
    until(lambda: done(folder, ONE) > 3)
    foreman.remove(ONE)
    until(lambda: diary(folder)[-1] == f"finished {TWO}")
    assert diary(folder)[:2] == [f"from 0 {ONE}", f"stopped {ONE}"]
    assert foreman.told()["failed"] == []


def test_a_run_that_is_taken_is_free_when_that_returns(folder: Path, foreman: Any):
    foreman.add(prepared(folder, ONE, 5000))
    until(lambda: done(folder, ONE) > 3)
    foreman.take(ONE, lambda: None)
    assert diary(folder)[-1] == f"stopped {ONE}"
    assert not foreman.works_on(ONE)
    assert foreman.told()["waiting"] == []


def test_a_run_that_has_finished_otherwise_is_not_trained_again(folder: Path, foreman: Any, comfy: Comfy):
    comfy.executing = True
    foreman.add(prepared(folder, ONE))
    place = folder / "runs" / ONE
    (place / "a.safetensors").touch()
    (place / "result.json").write_text(json.dumps({"total": 12, "step": 12, "path": "a.safetensors"}))
    comfy.executing = False
    until(lambda: foreman.told()["waiting"] == [])
    assert diary(folder) == []


# --- prompts


def test_a_prompt_has_the_card_from_its_first_moment_to_its_end(folder: Path, foreman: Any, comfy: Comfy):
    foreman.add(prepared(folder, ONE, 60))
    until(lambda: done(folder, ONE) > 3)
    for prompt in ("a", "b"):
        comfy.executing = True
        foreman.before_prompt(prompt)
        assert diary(folder)[-1] == f"paused {ONE}"
        at = done(folder, ONE)
        assert foreman.told()["paused"]
        time.sleep(0.5)  # ten steps, if it trained
        assert done(folder, ONE) == at
        foreman.after_prompt(prompt)
        comfy.executing = prompt == "a"  # b waits while a is executed: the card stays with the prompts
    until(lambda: comfy.told)
    assert diary(folder) == [f"{what} {ONE}" for what in ("from 0", "paused", "resumed", "finished")]


def test_where_there_are_no_hooks_a_prompt_has_the_card_as_well(folder: Path, foreman: Any, comfy: Comfy):
    foreman.add(prepared(folder, ONE, 60))
    until(lambda: done(folder, ONE) > 3)
    comfy.executing = True
    until(lambda: foreman.told()["paused"])
    comfy.executing = False
    until(lambda: comfy.told)


def test_nothing_is_begun_while_a_prompt_is_executed(folder: Path, foreman: Any, comfy: Comfy):
    foreman.before_prompt("the one that adds it")
    foreman.add(prepared(folder, ONE))
    time.sleep(1)
    assert diary(folder) == []
    assert foreman.told() == {"running": None, "paused": False, "waiting": [ONE], "failed": [], "note": ""}
    foreman.after_prompt("the one that adds it")
    until(lambda: comfy.told)


def test_a_person_s_pause_outlasts_a_prompt(folder: Path, foreman: Any, comfy: Comfy, load_node_file: Any):
    control = load_node_file("foreman").control
    file = folder / "runs" / ONE / "control.json"
    foreman.add(prepared(folder, ONE, 60))
    until(lambda: done(folder, ONE) > 3)
    control.change(file, lambda asked: control.replace(asked, pause=True))
    until(lambda: foreman.told()["paused"])
    comfy.executing = True
    foreman.before_prompt("a")
    foreman.after_prompt("a")
    comfy.executing = False
    until(lambda: not control.read(file).give_way)
    assert foreman.told()["paused"]
    foreman.before_prompt("b")  # while it is paused by a person, it has nothing to wait for
    foreman.after_prompt("b")
    control.change(file, lambda asked: control.replace(asked, pause=False))
    until(lambda: comfy.told)


def test_a_prompt_does_not_wait_forever_for_a_worker_that_hears_nothing(
    folder: Path, foreman: Any, monkeypatch: pytest.MonkeyPatch, load_node_file: Any, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(load_node_file("foreman"), "GIVE_WAY_SECONDS", 0.3)
    foreman._work = partial(
        load_node_file("runner").work, arguments=[sys.executable, "-c", "import time; time.sleep(600)"]
    )
    foreman.add(prepared(folder, ONE))
    until(lambda: foreman.told()["running"] == ONE)
    foreman.before_prompt("a")
    assert f"{ONE} is still busy: the prompt begins beside it" in caplog.text

    def impatient() -> None:
        foreman.remove(ONE)  # twice: it is ended

    foreman.take(ONE, impatient)


# --- on disk


def test_a_queue_survives_the_end_of_its_comfyui(folder: Path, foreman: Any, comfy: Comfy):
    prepared(folder, ONE, 100)
    prepared(folder, TWO)
    program = [sys.executable, "-c", OTHER, str(REPO), str(folder), ONE, TWO]
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=REPO) as other:
        until(lambda: done(folder, ONE) > 10)
        assert foreman.told()["running"] == ONE, "seen from here, too"
        other.send_signal(signal.SIGKILL)
    foreman.begin()
    until(lambda: len(comfy.told) == 2)
    _, stopped, again, *rest = diary(folder)
    assert stopped == f"stopped {ONE}"
    assert int(again.split()[1]) > 10, "it goes on from what was saved"
    assert rest == [f"finished {ONE}", f"from 0 {TWO}", f"finished {TWO}"]


def test_of_two_comfyuis_on_one_folder_one_works(folder: Path, foreman: Any, comfy: Comfy, load_node_file: Any):
    others = Comfy()
    other = foreman_in(folder, others, load_node_file)
    for run, who in ((ONE, foreman), (TWO, other), (THREE, foreman)):
        who.add(prepared(folder, run, 20))
    until(lambda: len(comfy.told) + len(others.told) == 3)
    until(lambda: other._thread is None)
    assert diary(folder) == [f"{what} {run}" for run in (ONE, TWO, THREE) for what in ("from 0", "finished")]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b"\xff\xfe", b"{}", b'{"runs": 5, "failed": []}', b'{"runs": [5], "failed": []}'],
)
def test_a_damaged_queue_is_set_aside_and_said(
    folder: Path, content: bytes, load_node_file: Any, caplog: pytest.LogCaptureFixture
):
    (folder / "queue.json").write_bytes(content)
    queue = load_node_file("runqueue").RunQueue(folder)
    with caplog.at_level(logging.WARNING):
        listed = queue.read()
    (aside,) = folder.glob("queue.damaged-*.json")
    assert aside.read_bytes() == content
    assert aside.name in listed.note
    assert aside.name in caplog.text
    assert (listed.runs, listed.failed) == ([], [])
    queue.add(ONE)
    assert queue.read().runs == [ONE]
    assert len(list(folder.glob("queue.damaged-*.json"))) == 1


def test_no_change_of_the_queue_is_lost_among_threads(folder: Path, load_node_file: Any):
    changes: list[None] = []
    queue = load_node_file("runqueue").RunQueue(folder, lambda: changes.append(None))

    def add(first: int) -> None:
        for number in range(10):
            queue.add(f"{first:06d}{number:06d}")

    threads = [threading.Thread(target=add, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(queue.read().runs)) == len(changes) == 40
    queue.add(queue.read().runs[0])
    assert len(changes) == 40, "what changes nothing is not told"
