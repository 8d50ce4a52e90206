"""What a page is told of a run: its journal as if it had never been interrupted, condensed, and as it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOME = "/home/someone/trainings"


@pytest.fixture
def story(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("story")


@pytest.fixture
def live(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("live")


@pytest.fixture
def where(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("where")


class Journal:
    """A run folder whose journal is written line by line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seq = folder, 0
        (folder / "samples").mkdir(parents=True)
        (folder / "job.yaml").write_text(
            f"config: {{train_data_dir: {HOME}/cats, base_model: {HOME}/sd15.safetensors}}\n"
        )

    def tell(self, kind: str, /, **fields: Any) -> int:
        """Adds a line; its number."""
        line = {"v": 1, "run": "r", "seq": self.seq, "t": 1000.0 + self.seq, "type": kind, **fields}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.seq += 1
        return self.seq - 1

    def start(self, step: int = 0) -> int:
        return self.tell("RunStarted", step=step, total_steps=40, text=False)

    def steps(self, first: int, last: int, loss: float | None = 0.5) -> int:
        for step in range(first, last + 1):
            self.tell("Step", step=step, total=40, loss=loss, lr=1e-3, seconds=0.25, memory=step * 10, eta=1.0)
        return self.seq - 1


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "0123456789ab \u6f2b")


def test_a_run_that_has_told_nothing_has_an_empty_story(story: Any, journal: Journal):
    found = story.of(journal.folder)
    assert (found["seq"], found["losses"], found["phase"], found["end"]) == (-1, [], None, None)


def test_steps_that_a_resumed_run_did_again_count_once(story: Any, journal: Journal):
    journal.start()
    journal.steps(1, 6)
    journal.tell("Validation", step=6, signal="held_out", loss=0.4)
    journal.start(step=4)
    journal.steps(5, 7, loss=0.3)
    found = story.of(journal.folder)
    assert [(step, loss) for step, loss, *_ in found["losses"]] == [(s, 0.5) for s in range(1, 5)] + [
        (s, 0.3) for s in range(5, 8)
    ]
    assert found["validations"] == []
    assert found["begun"]["step"] == 4


def test_what_came_after_a_line_is_told_alone_unless_the_run_went_back(story: Any, journal: Journal):
    journal.start()
    known = journal.steps(1, 6)
    journal.steps(7, 9)
    found = story.of(journal.folder, known)
    assert [one[0] for one in found["losses"]] == [7, 8, 9]
    assert found["after"] == known
    journal.start(step=4)
    found = story.of(journal.folder, known)
    assert [one[0] for one in found["losses"]] == [1, 2, 3, 4]
    assert found["after"] is None
    assert story.of(journal.folder, known + 1000)["after"] is None


def test_a_long_run_is_condensed_to_means(story: Any, journal: Journal):
    journal.start()
    for step in range(1, 4501):
        loss = None if step == 1 else float(step)
        journal.tell("Step", step=step, total=4500, loss=loss, lr=1.0, seconds=step / 1000, memory=step, eta=0.0)
    losses = story.of(journal.folder)["losses"]
    assert len(losses) == story.MOST_POINTS
    assert losses[0] == [3, 2.5, 1.0, pytest.approx(0.002), 3]
    assert losses[-1] == [4500, 4499.0, 1.0, pytest.approx(4.499), 4500]


def test_the_phase_is_the_last_thing_that_was_done(story: Any, journal: Journal):
    journal.tell("Phase", name="loading the base model", done=0, total=0)
    assert story.of(journal.folder)["phase"]["name"] == "loading the base model"
    journal.start(step=3)
    assert story.of(journal.folder)["phase"] == {"name": "training", "done": 3, "total": 40, "t": 1001.0}
    journal.tell("Phase", name="drawing samples", done=1, total=4)
    assert story.of(journal.folder)["phase"]["done"] == 1
    journal.steps(4, 4)
    assert story.of(journal.folder)["phase"] == {"name": "training", "done": 4, "total": 40, "t": 1003.0}


def test_no_path_of_the_machine_is_told(story: Any, journal: Journal):
    journal.tell("Warned", message=f"{HOME}/cats/one.png is small, and {journal.folder} is full")
    journal.start()
    journal.tell("Advised", kind="diagnosis", field="epochs", message=f"{HOME}/cats is too small", cure="more")
    journal.tell("Sample", step=1, index=0, prompt="a cat", latents="samples/step-000001-0.safetensors", image="")
    journal.tell(
        "RunFailed", message=f"{HOME}/sd15.safetensors cannot be read", cure="", details="Traceback", user=True
    )
    found = story.of(journal.folder)
    assert HOME not in json.dumps(found)
    assert str(journal.folder.parent) not in json.dumps(found)
    assert found["warnings"] == [f"cats/one.png is small, and {journal.folder.name} is full"]
    assert found["end"] == {
        "seq": 4, "t": 1004.0, "type": "RunFailed", "user": True, "cure": "",
        "message": "sd15.safetensors cannot be read",
    }  # fmt: skip


def test_a_sample_has_the_best_picture_that_there_is(story: Any, journal: Journal):
    journal.start()
    latents = "samples/step-000001-0.safetensors"
    for _ in range(2):  # drawn twice: as asked, and as planned
        journal.tell("Sample", step=1, index=0, prompt="a cat", latents=latents, image="", answer="")
    (sample,) = story.of(journal.folder)["samples"]
    assert sample["picture"] == ""
    for name in ("step-000001-0.webp", "step-000001-0-vae.webp"):
        (journal.folder / "samples" / name).write_bytes(b"a picture")
        (sample,) = story.of(journal.folder)["samples"]
        assert sample["picture"] == name
    assert sample["prompt"] == "a cat"


def test_what_the_last_process_concluded_is_the_diagnosis(story: Any, journal: Journal):
    for step, said in ((0, "too short"), (4, "fine now")):
        journal.tell("Advised", kind="warning", field="learning_rate", message="high", cure="lower it")
        journal.start(step)
        journal.steps(step + 1, step + 4)
        journal.tell("Advised", kind="diagnosis", field="epochs", message=said, cure="")
        journal.tell("RunFinished", step=step + 4, path="x.safetensors", stopped="", best=0, reason="")
    found = story.of(journal.folder)
    assert [one["message"] for one in found["advice"]] == ["high", "fine now"]
    assert found["end"]["step"] == 8


def test_half_a_line_and_foreign_lines_are_passed_over(story: Any, journal: Journal):
    journal.start()
    with (journal.folder / "events.jsonl").open("ab") as file:
        file.write(b'\n[1]\n{"type": 3, "seq": 1}\n{"seq": "1", "type": "Step"}\n\xff\xfe\n{"v": 1, "seq": 9, "ty')
    assert story.of(journal.folder)["seq"] == 0


def test_pages_are_told_every_line_once_in_order_and_in_few_messages(live: Any, where: Any, journal: Journal):
    journal.steps(1, 3)  # of a former process
    where.write(journal.folder, where.Where("a workflow", "7:3"))
    sent: list[dict[str, Any]] = []
    following = live.Live(journal.folder, lambda event, data: sent.append({"event": event, **data}))
    following()
    first = journal.start()
    for step in range(1, 1001):
        journal.steps(step, step)
        following()
    following.close()
    told = [event["seq"] for message in sent for event in message["events"]]
    assert told == list(range(first, first + 1001))
    assert len(sent) < 100
    assert {(one["event"], one["run"], one["workflow"], one["node"]) for one in sent} == {
        ("run", journal.folder.name, "a workflow", "7:3")
    }


def test_what_comfyui_itself_does_for_a_node_is_known_until_it_ends(live: Any, where: Any, tmp_path: Path):
    sent: list[dict[str, Any]] = []
    at = where.Where("flow", "4")
    with live.Phases(at, lambda event, data: sent.append(data)) as phases:
        phases("Encoding images", 0, 9)
        phases.show(tmp_path)
        phases("Encoding images", 8, 9)  # at once after: not told, but known
        assert live.phases("flow")["4"]["done"] == 8
        assert live.phases("another") == {}
    assert live.phases("flow") == {}
    assert [[event["type"] for event in message["events"]] for message in sent] == [["Phase"], [], ["Idle"]]
    assert [message["run"] for message in sent] == ["", tmp_path.name, tmp_path.name]
    assert where.read(tmp_path) == at


def test_what_comfyui_did_is_over_when_the_worker_speaks(live: Any, where: Any, journal: Journal):
    at = where.Where("flow", "4")
    with live.Phases(at, lambda event, data: None) as phases:
        phases.show(journal.folder)
        phases("Starting the worker")
        following = live.Live(journal.folder, lambda event, data: None)
        following()
        assert live.phases("flow")["4"]["name"] == "Starting the worker"
        journal.start()
        following.close()
        assert live.phases("flow") == {}


def test_a_node_shows_the_run_that_it_began_or_found_last(where: Any, tmp_path: Path):
    at = where.Where("flow", "4")
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        where.write(tmp_path / run, at)
    where.write(tmp_path / "one", where.Where("flow", "4"))
    where.write(tmp_path / "two", where.Where("", "4"))  # queued by a program: it stays where it was
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "shown.json").write_text("[")
    assert where.runs_of(tmp_path, "flow") == {"4": "one"}
    assert where.runs_of(tmp_path, "other") == {}


@pytest.mark.parametrize("extra", [None, {}, {"workflow": None}, {"workflow": {"id": 3}}, {"workflow": []}])
def test_a_prompt_of_a_program_is_of_no_workflow(where: Any, extra: Any):
    assert where.of_prompt(extra, "4") == where.Where("", "4")


def test_a_page_says_which_workflow_a_prompt_is_of(where: Any):
    assert where.of_prompt({"workflow": {"id": "abc"}}, "7:3") == where.Where("abc", "7:3")
