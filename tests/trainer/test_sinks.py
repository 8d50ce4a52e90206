"""What a person reads: the log's lines, the bars, TensorBoard's curves."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer import sinks
from trainer.events import (
    Advised,
    Captioned,
    Checkpoint,
    Chosen,
    Event,
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
)
from trainer.gauge import GB
from trainer.sinks import Bar, Log, TensorBoard, clock, describe

STARTED = RunStarted("st\u00fcle", 0, 130, 10, 50, 4, 3_424_256, 859_520_964, "cuda:0", "fp16")
LINES: list[tuple[Event, str]] = [
    (
        STARTED,
        "st\u00fcle\n"
        "  images      50\n"
        "  steps       130 of 4 images (10 epochs)\n"
        "  trained     3,424,256 parameters, 0.4 % of 859,520,964\n"
        "  runs on     cuda:0 in fp16",
    ),
    (
        RunStarted("x", 40, 130, 10, 50, 4, 1, 100, "cpu", "fp32", {"512x512": 48, "448x576": 2}, 13_700_000, 125.0),
        "x: going on from step 40\n"
        "  images      50: 48 of 512x512, 2 of 448x576\n"
        "  steps       130 of 4 images (10 epochs)\n"
        "  trained     1 parameters, 1 % of 100; the file will have 13.7 MB\n"
        "  runs on     cpu in fp32, about 2:05 by a trial of the largest size",
    ),
    (
        replace(STARTED, buckets={"512x512": 50}, held_out=3, regularisation=20),
        "st\u00fcle\n"
        "  images      50: 50 of 512x512; of these 20 of regularisation; 3 more held out\n"
        "  steps       130 of 4 images (10 epochs)\n"
        "  trained     3,424,256 parameters, 0.4 % of 859,520,964\n"
        "  runs on     cuda:0 in fp16",
    ),
    (
        MemoryPlan(
            "cuda:0",
            7 * GB,
            15 * GB // 2,
            0,
            5 * GB,
            GB // 2,
            3 * GB // 2,
            GB,
            "bf16",
            1,
            True,
            "bf16, 1 at a time",
            {"gradient_checkpointing: true": 3 * GB, "base_weights: fp8": 2 * GB},
        ),
        "  memory      7.0 GB of 7.5: base 5.0, adapter 0.5, activations 1.5, samples 1.0\n"
        "  trained in  bf16, 1 at a time\n"
        "  would save  gradient_checkpointing: true 3.0 GB (the guide: about 50 %), base_weights: fp8 2.0 GB",
    ),
    (Phase("encoding images", 3, 12), ""),
    (
        Step(10, 130, 0, 0.12345, 2e-4, 0.5, 0.25, 5 * 2**29, 90.0),
        "step 10/130  loss 0.1235  rate 2.00e-04  0.25 s/step  2.5 GiB  1:30 left",
    ),
    (Validation(10, "held_out", 0.25), "step 10  validation (held out) 0.2500"),
    (Sample(10, 0, "a house", "samples/a.safetensors", "samples/a.png"), "step 10  sample samples/a.png: a house"),
    (Sample(10, 0, "a house", "samples/a.safetensors"), "step 10  sample samples/a.safetensors: a house"),
    (
        Checkpoint(10, "checkpoints/step-000010", 0.7512),
        "step 10  saved checkpoints/step-000010 (norm of the change 0.751)",
    ),
    (Captioned("10_cat/a.png", "a cat", 3, 12, 61.0), "3/12  1:01 left  10_cat/a.png: a cat"),
    (Warned("look"), "warning: look"),
    (Chosen("lora_rank", "16", "40 different pictures"), "auto: lora_rank 16 (40 different pictures)"),
    (Advised("note", "max_steps", "max_steps: 9 is not reached"), "note: max_steps: 9 is not reached"),
    (Advised("warning", "lora_rank", "too high", "lora_rank: 8"), "warning: too high\n  -> lora_rank: 8"),
    (RunFinished(130, "x.safetensors"), "finished after 130 steps: x.safetensors"),
    (RunStopped(7, "as asked"), "stopped after 7 steps (as asked); all of them are saved"),
    (RunStopped(0, "before the first step"), "stopped after 0 steps (before the first step)"),
    (RunFailed("out of memory", "batch_size: 2"), "failed: out of memory\n  -> batch_size: 2"),
    (RunFailed("out of memory"), "failed: out of memory"),
]


def test_every_event_has_its_line() -> None:
    assert {type(event) for event, _ in LINES} == set(Event.__subclasses__())
    for event, line in LINES:
        assert describe(event) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (0.6, "0:01"), (59.7, "1:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (36_061, "10:01:01"),
     (-5, "0:00"), (math.nan, "?"), (math.inf, "?")],
)  # fmt: skip
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_log_tells_a_phase_once_and_a_failure_with_its_details() -> None:
    stream = io.StringIO()
    log = Log(stream)
    for event in (
        Phase("encoding images", 0, 2), Phase("encoding images", 1, 2), Phase("loading the base model"),
        RunFailed("bad", "cure", False, "Traceback (most recent call last)"),
    ):  # fmt: skip
        log(event)
    assert stream.getvalue() == (
        "encoding images ...\nloading the base model ...\nTraceback (most recent call last)\nfailed: bad\n  -> cure\n"
    )


def test_the_log_file_is_appended_to_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "l\u00f6g \u65e5\u5fd7.txt"
    for word in ("\u4e00", "\udcff.png"):  # a name that is no UTF-8, too
        log = Log(path)
        log(Warned(word))
        assert word == "\udcff.png" or path.read_text(encoding="utf-8") == "warning: \u4e00\n"  # at once
        log.close()
    assert path.read_text(encoding="utf-8") == "warning: \u4e00\nwarning: \\udcff.png\n"


def test_the_terminal_s_stream_stays_open(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(sinks.sys.stdout)
    log(Warned("a"))
    log.close()
    print("still here")
    assert capsys.readouterr().out == "warning: a\nstill here\n"


def test_bars_move_and_lines_are_written_above_them(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    for event in (
        Phase("encoding images", 0, 3), Phase("encoding images", 2, 3), Phase("loading the base model"), STARTED,
        Step(10, 130, 0, 0.125, 2e-4, 0.5, 0.25, 0, 90.0), Warned("look"),
        Step(20, 130, 0, 0.0625, 2e-4, 0.5, 0.25, 0, 80.0), RunFinished(130, "x.safetensors"),
    ):  # fmt: skip
        bar(event)
    told = capsys.readouterr()
    assert "warning: look\n" in told.out
    assert "finished after 130 steps: x.safetensors\n" in told.out
    assert "encoding images" in told.err
    assert "2/3" in told.err
    assert "20/130" in told.err
    assert "loss=0.0625" in told.err
    assert bar._bar is None


# --- TensorBoard


def curves(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "logs"))
    found.Reload()
    return found


def told(run: Path, *events: Event) -> None:
    board = TensorBoard(run)
    for event in events:
        board(event)
    board.close()


def step(number: int, loss: float) -> Step:
    return Step(number, 20, 0, loss, 2e-4, 0.5, 0.25, 0, 0.0)


def start(number: int) -> RunStarted:
    return RunStarted("x", number, 20, 5, 12, 4, 1, 100, "cpu", "fp32")


def test_losses_rates_validations_and_pictures_are_curves(tmp_path: Path) -> None:
    run = tmp_path / "r\u00fcn \u8dd1"
    (run / "samples").mkdir(parents=True)
    Image.new("RGB", (16, 8), (255, 0, 0)).save(run / "samples" / "a.png")
    told(
        run, Phase("loading"), start(0), step(1, 0.5), step(2, 0.25), Validation(2, "held_out", 0.75, {"125": 1.0}),
        Sample(2, 0, "a house", "samples/a.safetensors", "samples/a.png"),
        Sample(2, 1, "no picture", "samples/b.safetensors"), RunFinished(2, "x"),
    )  # fmt: skip
    found = curves(run)
    assert set(found.Tags()["scalars"]) == {
        "train/loss", "train/lr", "train/grad_norm", "train/seconds",
        "validation/held_out", "validation/held_out at 125",
    }  # fmt: skip
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in found.Scalars("validation/held_out")] == [(2, 0.75)]
    assert found.Tags()["images"] == ["samples/0: a house"]
    picture = found.Images("samples/0: a house")[0]
    assert (picture.step, picture.width, picture.height) == (2, 16, 8)


@pytest.mark.parametrize(("again", "kept"), [(2, [(1, 0.5), (2, 0.25), (3, 9.0)]), (0, [(3, 9.0)])])
def test_what_a_crash_lost_is_not_in_the_curve(
    tmp_path: Path, again: int, kept: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer import event_file_writer

    # Files of one second and process are read in the order of their numbers as texts: 10 before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    told(tmp_path, start(0), step(1, 0.5), step(2, 0.25), step(3, 0.125), step(4, 0.125))
    told(tmp_path, start(again), step(3, 9.0))
    assert [(e.step, e.value) for e in curves(tmp_path).Scalars("train/loss")] == kept


def test_nothing_is_written_before_the_run_starts(tmp_path: Path) -> None:
    told(tmp_path, Phase("loading"), Warned("x"), RunFailed("y"))
    assert not (tmp_path / "logs").exists()
