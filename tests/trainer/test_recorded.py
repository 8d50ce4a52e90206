"""Recorded steps: what a recording computes is what its kernels would, one by one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from tests.trainer.test_run import lora_of, losses, relative
from trainer import assembly, control, loop, memory, run
from trainer import step as steps
from trainer.config import TrainConfig
from trainer.control import Requests
from trainer.events import Event, Phase, RunFinished, Step, Warned
from trainer.gauge import Gauge
from trainer.recorded import MOST, Recorder

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
PLAN = memory.Plan(process=1, base=10, adapter=2, activations=20, samples=7, free=60)


class Numbers(NamedTuple):
    """A micro-batch."""

    x: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        return [self.x]


class Stand:
    """A graph on a machine without a card: it remembers one call, and makes it again."""

    made: list[Stand]

    def __init__(self) -> None:
        self.call: Callable[[], None] = lambda: None
        self.replays = 0
        Stand.made.append(self)

    def pool(self) -> int:
        return 7

    def replay(self) -> None:
        self.replays += 1
        self.call()


class Bench:
    """A weight, what computes it, and a recorder with graphs that are none."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        Stand.made = []
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.pools: list[Any] = []
        self.failing = ""
        self.told: list[str] = []
        self._last: Callable[[], torch.Tensor] | None = None
        patch.setattr(torch.cuda, "CUDAGraph", Stand)
        patch.setattr(torch.cuda, "graph", self._recording)
        self.recorder = Recorder([self.weight], self.compute, Gauge(torch.device("cpu")), self.told.append)

    def compute(self, batch: Numbers, share: torch.Tensor) -> torch.Tensor:
        loss = ((batch.x @ self.weight).square() * share).sum()
        loss.backward()
        self._last = lambda: self.compute(batch, share)
        self.loss = loss.detach()
        return self.loss

    @contextmanager
    def _recording(self, graph: Stand, *, pool: Any) -> Iterator[None]:
        self.pools.append(pool)
        assert self.weight.grad is not None
        before = self.weight.grad.clone()
        yield
        self.weight.grad.copy_(before)  # what is recorded is not computed
        if self.failing:
            raise RuntimeError(self.failing)
        call, loss = self._last, self.loss
        assert call is not None

        def again() -> None:
            loss.copy_(call())

        graph.call = again

    def step(self, *sizes: int) -> tuple[list[float], torch.Tensor]:
        """A step of so many micro-batches; their losses, and the gradient, beside those without a recorder."""
        self.recorder.begin()
        batches = [Numbers(torch.randn(size, 2)) for size in sizes]
        found = [float(self.recorder(Numbers(batch.x.clone()), 1 / sum(sizes))) for batch in batches]
        assert self.weight.grad is not None
        gradient = self.weight.grad.clone()
        plain = self.weight.detach().clone().requires_grad_()
        losses = [((batch.x @ plain).square() / sum(sizes)).sum() for batch in batches]
        torch.stack(losses).sum().backward()
        assert plain.grad is not None
        torch.testing.assert_close(gradient, plain.grad)
        assert found == pytest.approx(torch.stack(losses).detach().tolist(), rel=1e-6)
        with torch.no_grad():
            self.weight -= 0.1 * gradient
        return found, gradient


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    torch.manual_seed(0)
    return Bench(monkeypatch)


def test_each_shape_is_recorded_when_it_comes_again_and_every_step_is_what_it_would_be_without(bench: Bench) -> None:
    for sizes in ([3], [3, 3], [2], [3], [2, 3], [2]):
        bench.step(*sizes)
    assert [graph.replays for graph in Stand.made] == [4, 2]
    assert bench.pools == [None, 7], "all recordings compute in one memory"
    assert not bench.told


def test_gradients_stay_where_the_recording_adds_to_them_even_if_somebody_puts_others_there(bench: Bench) -> None:
    bench.step(3)
    where = bench.weight.grad
    bench.weight.grad = torch.ones(2)
    bench.step(3)
    assert bench.weight.grad is where


def test_after_forgetting_nothing_is_replayed(bench: Bench) -> None:
    bench.step(3)
    bench.step(3)
    bench.recorder.forget()
    assert bench.weight.grad is None
    bench.weight.data = bench.weight.data.clone()  # as after a move
    bench.step(3)
    bench.step(3)
    assert [graph.replays for graph in Stand.made] == [1, 1]
    assert bench.pools == [None, None]


def test_what_cannot_be_recorded_is_computed_as_usual_and_told_once(bench: Bench) -> None:
    bench.failing = "CUDA error: operation not permitted when stream is capturing\nfurther lines"
    for _ in range(4):
        bench.step(3)
    (told,) = bench.told
    assert "operation not permitted when stream is capturing" in told
    assert "further" not in told
    assert sum(graph.replays for graph in Stand.made) == 0


def test_rare_shapes_beyond_the_most_are_computed_as_usual(bench: Bench) -> None:
    for size in range(1, MOST + 3):
        for _ in range(2):
            bench.step(size)
    assert len(Stand.made) == MOST


def test_a_step_keeps_its_memory_only_where_another_and_a_sample_fit_beside_it() -> None:
    assert PLAN.has_room
    assert not memory.Plan(process=1, base=10, adapter=2, activations=20, samples=8, free=60).has_room
    assert (PLAN.total, memory.Plan(1, 10, 2, 20, 7, 60, kept=True).total) == (33, 40)


def test_where_memory_is_out_the_recording_is_the_first_thing_to_go() -> None:
    begun = memory.Savings(half=True, batch=4, checkpointing=False)
    less = memory.next(begun, memory.Possible(launched=True))
    assert less is not None
    assert less.launched
    assert less.batch == 4
    assert "one by one" in memory.told(begun, less, "bf16")
    without = memory.next(begun, memory.Possible())
    assert without is not None
    assert without.batch == 2
    assert not without.launched


# --- on a card


def trained(config: TrainConfig, name: str) -> tuple[TrainConfig, list[Event]]:
    config = config.but(output_dir=config.output_dir.with_name(name))
    seen: list[Event] = []
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFinished), end
    return config, seen


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Calling it has all runs after it launch their kernels one by one."""
    return lambda: monkeypatch.setattr(assembly, "recorder", lambda *_: None)


@on_a_card
@pytest.mark.parametrize(
    "settings",
    [
        {"mixed_precision": "bf16", "gradient_checkpointing": False},
        {"mixed_precision": "bf16", "gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        {"mixed_precision": "fp16", "gradient_checkpointing": False, "ema_decay": 0.9},
        {"mixed_precision": "no", "prior_preservation": 0.5, "class_prompt": "a picture"},
    ],
    ids=["bf16", "checkpointing", "fp16", "prior"],
)
def test_a_recorded_run_is_the_launched_one(
    config: TrainConfig, launched: Callable[[], None], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[None] = []
    real = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(None), real(graph)))
    config = config.but(device="cuda", epochs=8, validation_steps=4, validation_images=1, **settings)
    one, seen = trained(config, "recorded")
    assert replayed
    assert not [e for e in seen if isinstance(e, Warned) and "recorded" in e.message]
    count = len(replayed)
    launched()
    other, again = trained(config, "launched")
    assert len(replayed) == count
    assert losses(seen) == pytest.approx(losses(again), rel=2e-3)
    assert relative(lora_of(one), lora_of(other)) < 0.05


@on_a_card
def test_a_run_waits_for_the_card_only_where_it_has_something_to_tell(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, verdict = loop.step, steps.Verdict.__call__
    taken = 0
    asked: list[tuple[int, int]] = []

    class Verdict(steps.Verdict):
        def __init__(self, finite: torch.Tensor) -> None:
            super().__init__(finite)
            self.of = taken

        def __call__(self) -> bool:
            asked.append((self.of, taken))
            return verdict(self)

    def step(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        torch.cuda.set_sync_debug_mode("error" if taken > 6 else "default")  # the recordings are made before
        try:
            return real(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(steps, "Verdict", Verdict)
    monkeypatch.setattr(loop, "step", step)
    trained(config.but(device="cuda", epochs=10, mixed_precision="bf16", log_interval=100), "quiet")
    assert taken > 12
    late = [of for of, now in asked if now == of + 1]
    assert len(late) > taken / 2, "of most steps it is asked when the next one is under way"


@on_a_card
def test_a_paused_run_keeps_no_recording_and_goes_on(
    config: TrainConfig, launched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.but(device="cuda", epochs=10, mixed_precision="bf16")
    seen: list[Event] = []
    left: list[int] = []
    made: list[weakref.ref[Any]] = []
    real = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (made.append(weakref.ref(graph)), real(graph)))
    requests = config.output_dir / "control.json"

    def sink(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Step) and event.step == 12:
            control.write(requests, Requests(pause=True))
        if isinstance(event, Phase) and event.name == "paused":
            left.append(sum(graph() is not None for graph in made))
            control.write(requests, Requests())

    end = run.start(config, [sink])
    assert isinstance(end, RunFinished), end
    assert left == [0]
    launched()
    _, again = trained(config, "launched")
    assert losses(seen) == pytest.approx(losses(again), rel=2e-3)
