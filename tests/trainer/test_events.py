"""Events: their codec, a journal that was cut off, and the story of a run that was interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.events import (
    Advised,
    Captioned,
    Checkpoint,
    Chosen,
    Event,
    Journal,
    MemoryPlan,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    Validation,
    Warned,
    decode,
    encode,
    history,
    read,
)

ALL = [
    RunStarted("st\u00fcle", 0, 20, 5, 12, 4, 3_400_000, 860_000_000, "cuda:0", "fp16"),
    MemoryPlan("cuda:0", 9, 12, 0, 5, 1, 3, 2, "bf16", 2, True, "bf16, 2 at a time", {"batch_size: 1": 1}),
    Phase("encoding images", 3, 12),
    Step(10, 20, 2, 0.125, 2e-4, 0.5, 0.25, 4_000_000_000, 2.5),
    Validation(10, "held_out", 0.25, {"125": 0.5, "875": 0.0}),
    Sample(10, 0, "\u6c34\u58a8 a house", "samples/a.safetensors", "samples/a.png"),
    Checkpoint(10, "checkpoints/step-000010", 0.75),
    Captioned("10_cat/a \u6c34.png", "a cat, asleep", 3, 12, 4.5),
    Warned("something"),
    Chosen("lora_rank", "16", "40 different pictures"),
    Advised("warning", "lora_rank", "too high", "lora_rank: 8"),
    RunFinished(20, "x.safetensors"),
    RunStopped(10, "as asked"),
    RunFailed("out of memory", "batch_size: 2", True, "Traceback"),
]


def line(event: Event) -> str:
    return encode(event, run="abc", seq=7, t=1.23456)


@pytest.mark.parametrize("event", ALL, ids=lambda e: type(e).__name__)
def test_every_event_comes_back(event: Event) -> None:
    assert decode(line(event)) == event
    data = json.loads(line(event))
    assert list(data)[:5] == ["v", "run", "seq", "t", "type"]
    assert (data["v"], data["run"], data["seq"], data["t"]) == (1, "abc", 7, 1.235)
    assert data["type"] == type(event).__name__


def test_no_event_type_is_forgotten_here_and_exactly_three_end_a_run() -> None:
    assert {type(e) for e in ALL} == set(Event.__subclasses__())
    assert {type(e) for e in ALL if e.terminal} == {RunFinished, RunStopped, RunFailed}


def test_numbers_that_are_not_finite_are_null_in_json_and_nan_again() -> None:
    text = line(Step(1, 2, 0, math.nan, math.inf, -math.inf, 0.0, 0, 0.0))
    assert json.loads(text)["loss"] is json.loads(text)["lr"] is json.loads(text)["grad_norm"] is None
    back = decode(text)
    assert isinstance(back, Step)
    assert math.isnan(back.loss)
    assert math.isnan(back.grad_norm)
    validation = decode(line(Validation(1, "train", 0.5, {"125": math.nan, "375": 0.5})))
    assert isinstance(validation, Validation)
    assert math.isnan(validation.by_timestep["125"])
    assert validation.by_timestep["375"] == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"type": "Ste', "3", "null", '"Step"', "[]", "{}", '{"type": 5}', '{"type": ["Step"]}',
        '{"type": "Explosion", "size": 3}', '{"type": "Event"}', '{"type": "Step", "step": 3}', "\x00\x01",
    ],
)  # fmt: skip
def test_what_is_no_event_of_this_version_is_ignored(text: str) -> None:
    assert decode(text) is None


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode('{"v": 2, "type": "Warned", "message": "m", "colour": "red"}') == Warned("m")
    assert decode('{"type": "Phase", "name": "p"}') == Phase("p", 0, 0)


def journal(path: Path, *told: Event) -> None:
    sink = Journal(path, "abc")
    for event in told:
        sink(event)
    sink.close()


@given(st.text(max_size=20))
def test_any_text_comes_through_the_journal(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Line separators of Unicode, quotes, control characters, and halves of pairs (file names that are no UTF-8)."""
    path = tmp_path_factory.mktemp("journal") / "events.jsonl"
    journal(path, Warned(text), Warned("after"))
    assert read(path)[0] == [Warned(text), Warned("after")]


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb\x0cb\x1cb", "a\nb\r\nc", "\udcff.png"])
def test_odd_texts_come_through_the_journal(tmp_path: Path, text: str) -> None:
    journal(tmp_path / "events.jsonl", RunFailed(text, text))
    assert read(tmp_path / "events.jsonl")[0] == [RunFailed(text, text)]


def test_the_journal_numbers_on_and_mends_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "r\u00fcn \u8dd1" / "events.jsonl"
    journal(path, *ALL[:3])
    whole = path.read_bytes()
    path.write_bytes(whole + line(ALL[3]).encode()[:25])  # killed while writing
    journal(path, *ALL[4:6])
    assert read(path)[0] == [*ALL[:3], *ALL[4:6]]
    numbers = [json.loads(text)["seq"] for text in path.read_text(encoding="utf-8").split("\n") if text.endswith("}")]
    assert numbers == [0, 1, 2, 4, 5]
    assert path.read_bytes().startswith(whole)


class FullDisk:
    """A file that takes no more than so many bytes, as a full disk does: first a part of a line, then an error."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self.left, self.name = file, left, file.name

    def write(self, data: bytes) -> int:
        if not self.left:
            raise OSError(28, "No space left on device")
        taken = self._file.write(data[: self.left])
        self.left -= taken
        return taken

    def close(self) -> None:
        self._file.close()


def test_what_a_full_disk_tears_off_costs_no_later_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = Journal(path, "abc")
    sink(ALL[0])
    disk = sink._file = cast(Any, FullDisk(sink._file, 30))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            sink(ALL[1])
    disk.left = 10_000  # somebody made room
    sink(RunFailed("the disk is full"))
    sink.close()
    assert read(path)[0] == [ALL[0], RunFailed("the disk is full")]
    assert not path.read_bytes().endswith(b"\n\n")


def test_a_reader_follows_a_journal_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read(path) == ([], 0)
    first, second = (f"{line(event)}\n".encode() for event in (Warned("\u4e00"), Warned("\u4e8c")))
    path.write_bytes(first + second[:-20])  # the second line is being written
    found, offset = read(path)
    assert found == [Warned("\u4e00")]
    assert offset == len(first)
    assert read(path, offset) == ([], offset)
    path.write_bytes(first + second)
    assert read(path, offset) == ([Warned("\u4e8c")], len(first + second))


def test_bytes_that_are_no_text_cost_only_their_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(ALL[0]).encode() + b"\n\xff\xfe\x00\n" + line(ALL[1]).encode() + b"\n")
    assert read(path)[0] == ALL[:2]


def started(step: int) -> RunStarted:
    return RunStarted("x", step, 20, 5, 12, 4, 1, 1, "cpu", "fp32")


def stepped(*steps: int) -> list[Event]:
    return [Step(n, 20, 0, 1.0 / n, 1e-4, 1.0, 0.1, 0, 0.0) for n in steps]


def told(tmp_path: Path, *parts: Any) -> list[Event]:
    flat = [event for part in parts for event in (part if isinstance(part, list) else [part])]
    journal(tmp_path / "events.jsonl", *flat)
    return list(history(tmp_path / "events.jsonl"))


def test_an_unbroken_story_is_as_it_was(tmp_path: Path) -> None:
    story = [started(0), Validation(0, "train", 1.0), *stepped(1, 2), Checkpoint(2, "p", 1.0), RunFinished(2, "x")]
    assert told(tmp_path, story) == story


def test_steps_after_the_last_checkpoint_before_a_crash_count_once(tmp_path: Path) -> None:
    story = told(
        tmp_path,
        started(0), Validation(0, "train", 1.0), stepped(1, 2, 3, 4), Checkpoint(4, "p", 1.0), stepped(5, 6),
        Sample(6, 0, "", "l"), Validation(6, "train", 1.0),
        # killed here
        started(4), stepped(5, 6, 7, 8), Checkpoint(8, "p", 1.0), RunFinished(8, "x"),
    )  # fmt: skip
    assert [e.step for e in story if isinstance(e, Step)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [e.step for e in story if isinstance(e, Checkpoint)] == [4, 8]
    assert [e for e in story if isinstance(e, Sample)] == []
    assert [e.step for e in story if isinstance(e, Validation)] == [0]


def test_a_run_that_begins_again_at_step_0_does_all_again(tmp_path: Path) -> None:
    validation = Validation(0, "train", 1.0)
    story = told(tmp_path, started(0), validation, stepped(1, 2), started(0), validation, stepped(1, 2, 3))
    assert [e.step for e in story if isinstance(e, Step)] == [1, 2, 3]
    assert [e for e in story if isinstance(e, Validation)] == [validation]


def test_a_checkpoint_that_could_not_be_read_again_is_no_point_of_return(tmp_path: Path) -> None:
    story = told(
        tmp_path, started(0), stepped(1, 2), Checkpoint(2, "p", 1.0), stepped(3, 4), Checkpoint(4, "p", 1.0),
        RunStopped(4, "as asked"), started(2), stepped(3, 4, 5),
    )  # fmt: skip
    assert [e.step for e in story if isinstance(e, Step)] == [1, 2, 3, 4, 5]
    assert not any(isinstance(e, RunStopped) for e in story)
