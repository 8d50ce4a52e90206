"""Runs that run out of memory, or of numbers, and go on: what comes out is what would have without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPO
from tests.trainer.test_run import lora_of, losses, relative, stop_at
from trainer import assembly, attempts, checkpoint, events, families, figures, gauge, memory, run
from trainer.averages import Averages
from trainer.config import TrainConfig
from trainer.events import (
    Checkpoint,
    Event,
    MemoryPlan,
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
from trainer.tasks.diffusion import Diffusion
from trainer.trained import Trained

Patch = pytest.MonkeyPatch


@pytest.fixture
def busy(config: TrainConfig, unhurried: None) -> TrainConfig:
    """A run with everything in it, which begins with all it may give up."""
    return config.but(
        epochs=3,
        gradient_checkpointing=False,
        validation_steps=4,
        sample_every=4,
        sample_prompts=["a house"],
        sample_inference_steps=2,
        optimizer="adamw",
        ema_decay=0.9,
    )


@pytest.fixture(autouse=True)
def _the_base_stays_as_it_is(monkeypatch: Patch) -> None:
    """So that what comes out can be compared: in fewer bits it is another function."""
    monkeypatch.setattr(assembly, "possible", lambda *_: memory.Possible())


def out_of_memory(monkeypatch: Patch, owner: Any, name: str, *at: int, after: bool = False) -> list[int]:
    """Makes the calls ``at`` (from 1) of a function run out of memory, before or after their work. Returns all."""
    real, calls = getattr(owner, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        if calls[-1] in at and not after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        result = real(*args, **kwargs)
        if calls[-1] in at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return result

    monkeypatch.setattr(owner, name, call)
    return calls


def quiet(folder: Path) -> list[Event]:
    """What counts of a run's story: steps, validations, samples, checkpoints; without times."""
    kinds = (Step, Validation, Sample, Checkpoint)
    return [event for event in events.history(folder / "events.jsonl") if isinstance(event, kinds)]


def without_times(told: list[Event]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for event in told:
        match event:
            case Step():
                found.append(("step", event.step, round(event.loss, 5)))
            case Validation():
                found.append(("validation", event.step, event.signal))
            case Sample() | Checkpoint():
                found.append((type(event).__name__, event.step))
    return found


def said(seen: list[Event]) -> list[str]:
    return [e.message for e in seen if isinstance(e, Warned) and "going on with" in e.message]


def backward(monkeypatch: Patch, at: int) -> None:
    from accelerate import Accelerator

    out_of_memory(monkeypatch, Accelerator, "backward", at)


def in_the_step(monkeypatch: Patch, at: int) -> None:
    """After some of the weights have moved."""
    out_of_memory(monkeypatch, torch.optim.AdamW, "step", at, after=True)


PHASES: dict[str, tuple[Callable[[Patch], Any], str]] = {
    "loading": (lambda patch: out_of_memory(patch, Trained, "to", 1), "loading the base model"),
    "trying": (lambda patch: out_of_memory(patch, Diffusion, "probe", 1), "trying a step"),
    "forward of the trial": (lambda patch: out_of_memory(patch, Diffusion, "loss", 2), "trying a step"),
    "the first validation": (lambda patch: out_of_memory(patch, Diffusion, "validate", 1), "validating at step 0"),
    "forward": (lambda patch: out_of_memory(patch, Diffusion, "batch", 7), "training step 6"),
    "backward": (lambda patch: backward(patch, 6), "training step 6"),
    "the first optimizer step": (lambda patch: in_the_step(patch, 2), "training step 1"),
    "an optimizer step": (lambda patch: in_the_step(patch, 7), "training step 6"),
    "the average": (lambda patch: out_of_memory(patch, Averages, "update", 6, after=True), "training step 6"),
    "validation": (lambda patch: out_of_memory(patch, Diffusion, "validate", 2), "validating at step 4"),
    "the check before saving": (lambda patch: out_of_memory(patch, Diffusion, "check", 2), "saving at step 4"),
    "saving": (lambda patch: out_of_memory(patch, Trained, "exported", 2), "saving at step 4"),
    "a sample": (lambda patch: out_of_memory(patch, Diffusion, "sample", 3), "drawing samples at step 8"),
    "the last sample": (lambda patch: out_of_memory(patch, Diffusion, "sample", 4), "drawing samples at step 12"),
    "the final file": (lambda patch: out_of_memory(patch, Trained, "exported", 7), "writing the LoRA"),
}


Story = tuple[list[tuple[Any, ...]], dict[str, torch.Tensor], list[int]]


@pytest.fixture(scope="module")
def once() -> list[Story]:
    """What the same run gives where memory never runs out."""
    return []


def unbroken(busy: TrainConfig, once: list[Story]) -> Story:
    if not once:
        whole = busy.but(output_dir=(busy.output_dir.parent / "whole" / busy.name).as_posix())
        assert isinstance(run.start(whole, []), RunFinished)
        once.append(story(whole))
    return once[0]


def story(config: TrainConfig) -> Story:
    return without_times(quiet(config.output_dir)), lora_of(config), checkpoint.complete(config.output_dir)


# The same places as others of these, a moment earlier or later.
SELDOM = ("forward of the trial", "backward", "the average", "the check before saving", "the last sample")


@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=pytest.mark.long) if phase in SELDOM else phase for phase in PHASES]
)
def test_out_of_memory_at_any_time_costs_a_line_and_nothing_else(
    busy: TrainConfig, monkeypatch: Patch, phase: str, once: list[Story]
) -> None:
    told, lora, saved = unbroken(busy, once)
    inject, doing = PHASES[phase]
    seen: list[Event] = []
    monkeypatch.setattr(memory, "lighter_base", memory.next)  # of a base that stays as it is there is none
    with monkeypatch.context() as patch:
        inject(patch)
        end = run.start(busy, [seen.append])
    assert isinstance(end, RunFinished), end
    (line,) = said(seen)
    assert line == (
        f"out of memory while {doing}: going on with 1 at a time, accumulated (the same result, a little slower)"
    )
    assert without_times(quiet(busy.output_dir)) == told
    assert relative(lora_of(busy), lora) < 1e-5
    assert checkpoint.complete(busy.output_dir) == saved


def test_checkpointing_in_mid_run_changes_nothing_but_the_last_digit(
    busy: TrainConfig, monkeypatch: Patch, once: list[Story]
) -> None:
    _, lora, _ = unbroken(busy, once)
    busy = busy.but(batch_size=1, gradient_accumulation_steps=2)
    seen: list[Event] = []
    out_of_memory(monkeypatch, Diffusion, "batch", 9)
    assert isinstance(run.start(busy, [seen.append]), RunFinished)
    assert said(seen)[0].endswith("going on with gradient checkpointing (the same result, a third slower)")
    assert relative(lora_of(busy), lora) < 1e-5


def test_nothing_is_done_twice_and_requests_are_not_asked_again(busy: TrainConfig, monkeypatch: Patch) -> None:
    seen: list[Event] = []
    out_of_memory(monkeypatch, Diffusion, "batch", 7)
    run.start(busy, [seen.append])
    told = [e.step for e in seen if isinstance(e, Step)]
    assert told == list(range(1, 13)), "five steps were done, and are not done again"
    assert [e.step for e in seen if isinstance(e, RunStarted)] == [0, 5]
    assert [e.step for e in seen if isinstance(e, Sample)] == [4, 8, 12]


def test_every_rung_trains(config: TrainConfig, monkeypatch: Patch, tmp_path: Path) -> None:
    """The whole ladder of an SDXL, down to the last rung, with all that a CPU can do of it."""
    base = families.get("sdxl").tiny(tmp_path / "xl.safetensors", 0)
    settings = {"base_model": base.as_posix(), "gradient_checkpointing": False, "epochs": 2}
    plain = config.but(**settings, output_dir=(tmp_path / "plain").as_posix())
    reference: list[Event] = []
    run.start(plain, [reference.append])

    monkeypatch.setattr(
        assembly, "possible", lambda *_: memory.Possible(int8=True, nf4=True, activations_in_ram=True, paged=True)
    )
    out_of_memory(monkeypatch, Diffusion, "batch", *range(1, 7))  # each attempt's first
    seen: list[Event] = []
    assert isinstance(run.start(config.but(**settings), [seen.append]), RunFinished)
    assert len(said(seen)) == 6
    result = json.loads((config.output_dir / "result.json").read_text())["memory"]
    assert result["savings"] == {
        "half": False, "batch": 1, "checkpointing": True, "base": "nf4", "activations_in_ram": True, "paged": True,
        "launched": False,
    }  # fmt: skip
    (planned,) = (e for e in seen if isinstance(e, MemoryPlan))
    assert (
        planned.how == "fp32 on a base in nf4, 1 at a time, checkpointing, activations in RAM, base in RAM, by blocks"
    )
    assert losses(seen) == pytest.approx(losses(reference), rel=0.1), "of weights that are rounded, but the same"
    assert losses(seen) != pytest.approx(losses(reference), rel=1e-6)


def test_what_keeps_things_in_ram_changes_nothing(busy: TrainConfig, monkeypatch: Patch, once: list[Story]) -> None:
    _, lora, _ = unbroken(busy, once)
    monkeypatch.setattr(assembly, "possible", lambda *_: memory.Possible(activations_in_ram=True, paged=True))
    out_of_memory(monkeypatch, Diffusion, "batch", 1, 4, 9, 15)
    seen: list[Event] = []
    assert isinstance(run.start(busy, [seen.append]), RunFinished)
    assert len(said(seen)) == 4
    assert said(seen)[-1].endswith("block by block on the card (the same result, slower)")
    assert relative(lora_of(busy), lora) < 1e-5


def test_what_was_measured_is_told_of_what_the_run_came_to(busy: TrainConfig, monkeypatch: Patch) -> None:
    """Estimates of other runs are reckoned from it."""
    out_of_memory(monkeypatch, Diffusion, "batch", 1, 2)
    run.start(busy.but(epochs=1), [])
    (figure,) = figures.own(busy.output_dir.parent, "cpu", "")
    assert (figure.batch, figure.checkpointing) == (1, True)


def test_attention_never_makes_the_matrix_of_all_pairs(busy: TrainConfig, monkeypatch: Patch) -> None:
    """SDPA, which is the first thing to save memory, is on in any case."""
    calls = 0
    real = torch.nn.functional.scaled_dot_product_attention

    def attend(*args: Any, **more: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(*args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    run.start(busy.but(max_steps=1, validation_steps=0, sample_every=0, sample_prompts=[]), [])
    assert calls > 0


def test_a_run_goes_down_the_ladder_and_then_says_what_only_the_user_may_change(
    busy: TrainConfig, monkeypatch: Patch
) -> None:
    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Diffusion, "batch", never)
    seen: list[Event] = []
    end = run.start(busy.but(batch_size=4), [seen.append])
    assert isinstance(end, RunFailed)
    given = [line.partition("going on with ")[2].partition(" (")[0] for line in said(seen)]
    assert given == ["2 at a time, accumulated", "1 at a time, accumulated", "gradient checkpointing"]
    assert end.message.startswith("out of memory while trying a step, with everything given up that can be")
    assert "a lower resolution than 128, or lora_rank than 8" in end.cure
    assert not end.user


def test_the_error_at_the_end_of_the_ladder_has_the_figures_and_what_would_save(
    busy: TrainConfig, monkeypatch: Patch
) -> None:
    out_of_memory(monkeypatch, Diffusion, "batch", 2)
    end = run.start(busy.but(batch_size=1, gradient_checkpointing=True), [])
    assert isinstance(end, RunFailed)
    assert "while training step 1" in end.message
    assert "it needs " in end.message
    assert "activations" in end.message
    assert "resolution: 64 " in end.cure
    assert "lora_rank: 4 " in end.cure


def test_a_resumed_run_starts_with_what_it_came_to(busy: TrainConfig, monkeypatch: Patch, once: list[Story]) -> None:
    _, lora, _ = unbroken(busy, once)
    seen: list[Event] = []
    with monkeypatch.context() as patch:
        out_of_memory(patch, Diffusion, "batch", 4)
        assert isinstance(run.start(busy, [seen.append], stop_at(seen, 6)), RunStopped)
    again: list[Event] = []
    assert isinstance(run.start(busy, [again.append]), RunFinished)
    assert not said(again)
    assert [e.batch for e in again if isinstance(e, MemoryPlan)] == [1]
    assert relative(lora_of(busy), lora) < 1e-5
    result = json.loads((busy.output_dir / "result.json").read_text())["memory"]
    assert result["savings"]["batch"] == 1


def test_other_settings_begin_anew_with_what_is_given_up(busy: TrainConfig, monkeypatch: Patch) -> None:
    seen: list[Event] = []
    with monkeypatch.context() as patch:
        out_of_memory(patch, Diffusion, "batch", 4)
        run.start(busy, [seen.append], stop_at(seen, 6))
    again: list[Event] = []
    run.start(busy.but(gradient_checkpointing=True), [again.append])
    assert [(e.batch, e.checkpointing) for e in again if isinstance(e, MemoryPlan)] == [(2, True)]


# --- planned


def planned(monkeypatch: Patch, free: int) -> None:
    """What is free; and the process itself, whose memory comes and goes as it likes, takes nothing."""
    real = attempts.rehearse

    def without_process(*given: Any, **more: Any) -> Any:
        found = real(*given, **more)
        return found._replace(plan=replace(found.plan, process=0, free=free))

    monkeypatch.setattr(attempts, "rehearse", without_process)
    monkeypatch.setattr(gauge, "_CLEAR", Path("/not there/clear_refs"))


def test_what_does_not_fit_by_the_plan_is_given_up_before_the_first_step(busy: TrainConfig, monkeypatch: Patch) -> None:
    seen: list[Event] = []
    planned(monkeypatch, 100 * GB)
    run.start(busy.but(batch_size=4, epochs=1), [seen.append])
    (first,) = (e for e in seen if isinstance(e, MemoryPlan))
    assert first.total == first.process + first.base + first.adapter + max(first.activations, first.samples)
    assert {"batch_size: 1", "gradient_checkpointing: true", "resolution: 64", "lora_rank: 4"} <= first.switches.keys()
    assert first.how == "fp32, 4 at a time"

    planned(monkeypatch, first.total - first.activations // 3)
    seen.clear()
    other = busy.but(batch_size=4, epochs=1, output_dir=f"{busy.output_dir} 2")
    assert isinstance(run.start(other, [seen.append]), RunFinished)
    (line,) = said(seen)
    assert line.startswith(f"it needs {first.total / GB:.1f} GB, and ")
    (second,) = (e for e in seen if isinstance(e, MemoryPlan))
    assert second.batch == 2
    assert second.activations < 0.8 * first.activations
    assert seen.index(second) < next(n for n, e in enumerate(seen) if isinstance(e, Step))


def test_a_plan_beyond_what_can_be_given_up_is_refused_on_a_cpu_and_tried_where_swap_is(
    busy: TrainConfig, monkeypatch: Patch
) -> None:
    small = busy.but(batch_size=1, gradient_checkpointing=True, epochs=1)
    planned(monkeypatch, 2**20)
    monkeypatch.setattr(attempts, "swap_free", lambda: 0)
    end = run.start(small, [])
    assert isinstance(end, RunFailed)
    assert "with everything given up that can be: it needs" in end.message
    monkeypatch.setattr(attempts, "swap_free", lambda: 100 * GB)
    seen: list[Event] = []
    assert isinstance(run.start(small, [seen.append]), RunFinished)
    assert any("it is tried all the same" in e.message for e in seen if isinstance(e, Warned))


def test_a_base_model_larger_than_the_ram_is_not_read(config: TrainConfig, monkeypatch: Patch) -> None:
    monkeypatch.setattr(attempts, "ram_free", lambda: 2**20)
    monkeypatch.setattr(attempts, "swap_free", lambda: 0)
    end = run.start(config.but(epochs=1), [])
    assert isinstance(end, RunFailed)
    assert "GB of RAM while it is read, and 0.0 GB are free" in end.message
    seen: list[Event] = []
    monkeypatch.setattr(attempts, "swap_free", lambda: GB)
    assert isinstance(run.start(config.but(epochs=1), [seen.append]), RunFinished)
    assert any("the system will swap" in e.message for e in seen if isinstance(e, Warned))
    seen.clear()
    monkeypatch.setattr(assembly, "possible", lambda *_: memory.Possible(half=True))
    monkeypatch.setattr(assembly, "sixteen_bits", lambda *_: "bf16")
    run.start(config.but(epochs=1, output_dir=f"{config.output_dir} 2"), [seen.append])
    (line,) = said(seen)
    assert line == "the base model is too large for the RAM: going on with the base model in bf16 (half its memory)"
    assert next(e.precision for e in seen if isinstance(e, MemoryPlan)) == "bf16"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plan_is_what_is_seen(busy: TrainConfig, monkeypatch: Patch, checkpointing: bool, tmp_path: Path) -> None:
    """By tensors, which is exact at any size: what a toy's run takes beside the process is lost in its noise."""
    monkeypatch.setattr(gauge, "_CLEAR", Path("/not there/clear_refs"))
    settings = busy.but(batch_size=4, epochs=1, gradient_checkpointing=checkpointing, ema_decay=0.0)
    seen: list[Event] = []
    peaks: list[int] = []
    real = attempts.train

    def watched(training: Any, *rest: Any) -> bool:
        known = [t for m in [training.model] for t in (*m.parameters(), *m.buffers())]
        with training.gauge.piece(known) as grown:
            reached = real(training, *rest)
        peaks.append(grown[0])
        return reached

    monkeypatch.setattr(attempts, "train", watched)
    run.start(settings, [seen.append])
    (plan,) = (e for e in seen if isinstance(e, MemoryPlan))
    weights = plan.adapter // 4  # gradients and two averages of AdamW come beside
    assert peaks[0] == pytest.approx(plan.adapter - weights + max(plan.activations, plan.samples), rel=0.1)


# --- what is not finite


def broken(monkeypatch: Patch, when: Callable[[int], bool]) -> None:
    real, calls = Diffusion.loss, 0

    def loss(self: Diffusion, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        found = real(self, model, batch)
        if not torch.is_grad_enabled():
            return found
        calls += 1
        return found * torch.nan if when(calls) else found

    monkeypatch.setattr(Diffusion, "loss", loss)


def test_after_a_few_steps_that_are_not_finite_it_goes_back_and_halves_the_rate(
    config: TrainConfig, monkeypatch: Patch
) -> None:
    config = config.but(epochs=5, lr_scheduler="constant", warmup_steps=0)
    seen: list[Event] = []
    broken(monkeypatch, lambda call: 8 <= call < 13)  # the first is the trial: from step 7 on, five of them
    assert isinstance(run.start(config, [seen.append]), RunFinished)
    told = [e.message for e in seen if isinstance(e, Warned) and "half the learning rate" in e.message]
    assert told == [
        "5 steps in a row were not finite: back to step 4, with half the learning rate (0.0005 at its highest)"
    ]
    steps = [e for e in events.history(config.output_dir / "events.jsonl") if isinstance(e, Step)]
    assert [e.step for e in steps] == list(range(1, 21))
    assert {e.step: e.lr for e in steps} == {n: 1e-3 if n <= 4 else 5e-4 for n in range(1, 21)}
    assert checkpoint.load(config.output_dir, 20).position.halved == 1


def test_the_halved_rate_is_kept_when_the_run_goes_on(config: TrainConfig, monkeypatch: Patch) -> None:
    config = config.but(epochs=5, lr_scheduler="constant", warmup_steps=0)
    seen: list[Event] = []
    with monkeypatch.context() as patch:
        broken(patch, lambda call: 8 <= call < 13)
        run.start(config, [seen.append], lambda: sum(isinstance(e, Step) for e in seen) > 10)
    again: list[Event] = []
    run.start(config, [again.append])
    assert {e.lr for e in again if isinstance(e, Step)} == {5e-4}


def test_the_halved_rate_is_kept_when_memory_runs_out(config: TrainConfig, monkeypatch: Patch) -> None:
    """In an optimizer step, so that it goes back to a checkpoint of before the rate was halved."""
    config = config.but(epochs=5, lr_scheduler="constant", warmup_steps=0)
    seen: list[Event] = []
    broken(monkeypatch, lambda call: 8 <= call < 13)
    # One step tries, six are done, five are left out by themselves: 13 is the second after it went back to step 4.
    out_of_memory(monkeypatch, torch.optim.AdamW, "step", 14, after=True)
    assert isinstance(run.start(config, [seen.append]), RunFinished)
    told = [e.message for e in seen if isinstance(e, Warned)]
    assert sum("half the learning rate" in line for line in told) == sum("out of memory" in line for line in told) == 1
    steps = [e for e in events.history(config.output_dir / "events.jsonl") if isinstance(e, Step)]
    assert {e.step: e.lr for e in steps} == {n: 1e-3 if n <= 4 else 5e-4 for n in range(1, 21)}


def test_three_times_is_enough_and_the_error_has_the_cure(config: TrainConfig, monkeypatch: Patch) -> None:
    seen: list[Event] = []
    broken(monkeypatch, lambda call: call > 1)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFailed)
    assert "5 steps in a row were not finite" in end.message
    assert "lower learning_rate" in end.cure
    told = [e.message for e in seen if isinstance(e, Warned) and "half the learning rate" in e.message]
    assert [line.partition("back to ")[2].partition(",")[0] for line in told] == ["the beginning"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins a process' peak anew")
def test_on_a_cpu_the_plan_is_within_a_tenth_of_the_peak(config: TrainConfig) -> None:
    """Of a process of its own: the memory of this one's other tests would count as its own."""
    settings = config.but(
        base_model=(REPO / "trainer" / "demo" / "base.safetensors").as_posix(), epochs=1, repeats=40, max_steps=3,
        batch_size=32, gradient_checkpointing=False, validation_steps=3, sample_every=3, sample_prompts=["a house"],
        sample_inference_steps=1,
    )  # fmt: skip
    file = config.train_data_dir.with_name("config.yaml")
    file.write_text(settings.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "trainer", "train", "--config", str(file)]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    found = json.loads((config.output_dir / "result.json").read_text(encoding="utf-8"))["memory"]
    assert found["plan"]["activations"] > found["planned"] / 4, "enough for the plan to matter"
    assert found["planned"] == pytest.approx(found["peak"], rel=0.1)
