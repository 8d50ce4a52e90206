"""The loop's arithmetic and its manners, on a model of three numbers: no base, no cache, no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from trainer import loop, optim, runfolder
from trainer.averages import Averages
from trainer.books import OVERFLOWS_ALLOWED, SKIPS_ALLOWED
from trainer.checkpoint import Position
from trainer.config import TrainConfig, parse
from trainer.control import Requests
from trainer.dataset.sampler import Window, windows, windows_per_epoch
from trainer.errors import DivergedError
from trainer.events import Event, Step, Warned
from trainer.gauge import Gauge
from trainer.job import Item
from trainer.loop import train
from trainer.step import Taken, Verdict, gradients, step
from trainer.training import Training

ITEMS = tuple(Item(f"{n:032x}", "", ("",), (64, 64), (64, 64), 1, "", ("",)) for n in range(7))


class Model(nn.Module):
    """Says its weights times what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))


@dataclass
class Task:
    """A sample's loss is the squared error of weight . x(sample, epoch) against 1; x from the sample's own id."""

    factor: Callable[[Window, int], float] = lambda window, epoch: 1.0
    seen: list[tuple[int, list[str]]] = field(default_factory=list)

    def batch(self, window: Window, epoch: int) -> tuple[torch.Tensor, float]:
        self.seen.append((epoch, [shown.key for shown in window]))
        rows = [x(shown.key, epoch) for shown in window]
        return torch.stack(rows), self.factor(window, epoch)

    def size(self, window: Window) -> int:
        return len(window)

    def loss(self, model: Model, batch: tuple[torch.Tensor, float]) -> torch.Tensor:
        rows, factor = batch
        return (rows @ model.weight - 1).square() * factor


def x(key: str, epoch: int) -> torch.Tensor:
    number = int(key[:32], 16)
    return torch.tensor([1.0, math.sin(number + epoch), math.cos(2.0 * number)])


@dataclass
class Recorder:
    """A studio that only remembers. Of no use to train on is it from step ``enough`` on."""

    asked: list[str] = field(default_factory=list)
    model: Model | None = None
    enough: float = math.inf
    every: int = 1

    def _note(self, what: str, position: Position) -> None:
        self.asked.append(f"{what} {position.step}")

    def validate(self, position: Position) -> bool:
        self._note("validate", position)
        return position.step >= self.enough

    def validates(self, step: int) -> bool:
        return step % self.every == 0

    def sample(self, position: Position) -> None:
        self._note("sample", position)

    def save(self, position: Position) -> None:
        self._note("save", position)

    def pause(self) -> None:
        self.asked.append("pause")


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """accelerate's own, in fp32 on the CPU; its shared state is left as it was."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    made = Accelerator(cpu=True, mixed_precision="no")
    yield made
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _only_the_checkpoints_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfolder, "CHECKPOINTS", 1)


def config(**fields: Any) -> TrainConfig:
    return parse(
        {"batch_size": 2, "learning_rate": 0.1, "lr_scheduler": "constant", "warmup_steps": 0, "max_grad_norm": 0.0,
         "mixed_precision": "no", "log_interval": 1, "save_steps": 1000, "validation_steps": 0, "sample_every": 0,
         **fields}
    )  # fmt: skip


def training(
    accelerator: Any, settings: TrainConfig, task: Task | None = None, *, total: int = 0, sgd: bool = False
) -> Training:
    model = Model()
    optimizer: torch.optim.Optimizer
    if sgd:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    else:
        optimizer = optim.make(settings, list(model.parameters()))
    per_epoch = windows_per_epoch(ITEMS, settings.window)
    return Training(
        settings, ITEMS, cast(Any, task or Task()), model, accelerator.prepare(optimizer), list(model.parameters()),
        accelerator, Position(total=total or 2 * per_epoch), per_epoch,
        Averages(list(model.parameters()), optimizer, settings.ema_decay), Gauge(torch.device("cpu")),
    )  # fmt: skip


def run_it(
    run: Training, requests: Callable[[], Requests] = Requests, enough: float = math.inf
) -> tuple[list[Event], list[str], bool]:
    seen: list[Event] = []
    studio = Recorder(enough=enough)
    reached = train(run, studio, requests, seen.append)
    return seen, studio.asked, reached


def taken(run: Training, window: Window, epoch: int, rate: float) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """A step: its loss, the norm of its gradient, and whether it happened."""
    made = step(run, window, epoch, lambda: rate)
    return made.loss, made.norm, made.happened()


def weight(run: Training) -> torch.Tensor:
    return cast(Model, run.model).weight.detach().clone()


# --- arithmetic


def mean_gradient(window: Window, epoch: int, at: torch.Tensor) -> torch.Tensor:
    """The mean of the samples' gradients, written out: 2 (w.x - 1) x."""
    rows = torch.stack([x(shown.key, epoch) for shown in window])
    return (2 * (rows @ at - 1)[:, None] * rows).mean(0)


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2), (1, 4)])
def test_gradients_are_divided_by_the_samples_truly_in_the_window(
    accelerator: Any, batch: int, accumulation: int
) -> None:
    settings = config(batch_size=batch, gradient_accumulation_steps=accumulation)
    run = training(accelerator, settings, sgd=True)
    both = windows(ITEMS, seed=42, epoch=0, size=settings.window)
    assert sorted(map(len, both)) == [3, 4]  # a short one among them
    for window in both:
        before = weight(run)
        loss, norm, stepped = taken(run, window, 0, 1.0)
        expected = mean_gradient(window, 0, before)
        assert stepped
        assert torch.allclose(before - weight(run), expected, rtol=1e-5)
        assert norm.item() == pytest.approx(expected.norm().item(), rel=1e-5)
        rows = torch.stack([x(shown.key, 0) for shown in window])
        assert loss.item() == pytest.approx((rows @ before - 1).square().mean().item(), rel=1e-5)


def test_micro_batches_are_slices_of_the_sampler_s_windows(accelerator: Any) -> None:
    task = Task()
    settings = config(batch_size=2, gradient_accumulation_steps=2)
    run_it(training(accelerator, settings, task))
    expected = [
        (epoch, [shown.key for shown in window[start : start + 2]])
        for epoch in range(2)
        for window in windows(ITEMS, seed=42, epoch=epoch, size=4)
        for start in range(0, len(window), 2)
    ]
    assert task.seen == expected


def test_the_gradients_of_two_ranks_add_up_to_those_of_one(accelerator: Any) -> None:
    window = windows(ITEMS, seed=42, epoch=0, size=7)[0]
    total, loss = torch.zeros(3), 0.0
    for rank in range(2):
        run = training(accelerator, config(batch_size=2), sgd=True)
        run.ranks = cast(Any, SimpleNamespace(rank=rank, world=2))
        loss += float(gradients(run, window, 0))
        assert run.parameters[0].grad is not None
        total += run.parameters[0].grad
    start = Model().weight.detach()
    assert torch.allclose(total, mean_gradient(window, 0, start), rtol=1e-5)
    rows = torch.stack([x(shown.key, 0) for shown in window])
    assert loss == pytest.approx((rows @ start - 1).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("limit", "expected"), [(0.0, None), (0.25, 0.25), (1e6, None)])
def test_gradients_are_clipped_to_the_norm_or_not_at_all(
    accelerator: Any, limit: float, expected: float | None
) -> None:
    run = training(accelerator, config(max_grad_norm=limit), sgd=True)
    window = windows(ITEMS, seed=42, epoch=0, size=2)[0]
    whole = mean_gradient(window, 0, weight(run)).norm().item()
    assert whole > 0.5
    before = weight(run)
    _, norm, _ = taken(run, window, 0, 1.0)
    assert norm.item() == pytest.approx(whole, rel=1e-5)  # what is told is the norm before
    assert (before - weight(run)).norm().item() == pytest.approx(expected or whole, rel=1e-4)


def test_every_step_has_the_schedule_s_rate(accelerator: Any) -> None:
    settings = config(lr_scheduler="cosine", warmup_steps=3)
    run = training(accelerator, settings, total=40)
    seen, _, reached = run_it(run)
    assert reached
    steps = [e for e in seen if isinstance(e, Step)]
    assert [e.step for e in steps] == list(range(1, 41))
    assert [e.lr for e in steps] == [optim.rate(settings, n, 40) for n in range(40)]
    assert len({e.lr for e in steps}) > 30
    assert [e.epoch for e in steps] == [n // 4 for n in range(40)]
    assert steps[-1].eta == 0


# --- what is not finite


def broken_at(*cursors: int, value: float = math.nan) -> Task:
    """A task whose loss is not finite in some windows (of 2, in epochs of 4)."""
    calls = iter(range(10**6))
    return Task(lambda window, epoch: value if next(calls) in cursors else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_said(accelerator: Any, value: float) -> None:
    settings = config(lr_scheduler="linear")
    run = training(accelerator, settings, broken_at(2, value=value), total=6)
    seen, asked, reached = run_it(run)
    assert reached
    assert (run.position.cursor, run.position.step, run.position.skipped) == (6, 5, 0)
    steps = [e for e in seen if isinstance(e, Step)]
    assert [e.step for e in steps] == [1, 2, 3, 4, 5]
    assert [e.lr for e in steps] == [optim.rate(settings, n, 6) for n in range(5)]  # the schedule did not move
    assert all(math.isfinite(e.loss) for e in steps)
    warned = [e.message for e in seen if isinstance(e, Warned)]
    assert len(warned) == 1
    assert warned[0] == f"step 3 was not finite (loss {value:g}) and is skipped"
    assert asked == ["save 5"]


def test_a_skipped_step_leaves_weights_and_optimizer_alone(accelerator: Any) -> None:
    run = training(accelerator, config(), broken_at(1))
    both = windows(ITEMS, seed=42, epoch=0, size=2)
    assert taken(run, both[0], 0, 0.1)[2]
    before = weight(run), optim.state(run.optimizer, ["w"])[0]
    before_state = {name: tensor.clone() for name, tensor in before[1].items()}
    assert not taken(run, both[1], 0, 0.1)[2]
    assert torch.equal(weight(run), before[0])
    after, _ = optim.state(run.optimizer, ["w"])
    assert all(torch.equal(after[name], tensor) for name, tensor in before_state.items())


def test_a_gradient_that_is_not_finite_is_enough(accelerator: Any) -> None:
    """The loss is well, and its gradient is not: the square root's at zero."""

    class Steep(Task):
        def loss(self, model: Model, batch: tuple[torch.Tensor, float]) -> torch.Tensor:
            return super().loss(model, batch) + (batch[0] @ model.weight * 0).sqrt()

    run = training(accelerator, config(), Steep())
    before = weight(run)
    loss, _, stepped = taken(run, windows(ITEMS, seed=42, epoch=0, size=2)[0], 0, 0.1)
    assert torch.isfinite(loss)
    assert not stepped
    assert torch.equal(weight(run), before)


class Noted:
    """Notes the order in which batches are made and the device is asked whether a step happened."""

    def __init__(self, patch: pytest.MonkeyPatch, run: Training, task: Task) -> None:
        self.order: list[str] = []
        verdict, real = Verdict.__call__, task.batch
        number = iter(range(1, 10**6))
        patch.setattr(Verdict, "__call__", lambda asked: (self.order.append("asked"), verdict(asked))[1])

        def batch(window: Window, epoch: int) -> tuple[torch.Tensor, float]:
            self.order.append(f"step {next(number)}")
            return real(window, epoch)

        task.batch = batch


def test_nobody_waits_for_a_step_before_the_next_is_under_way_unless_something_is_due(
    accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task()
    run = training(accelerator, config(log_interval=4, save_steps=5), task, total=7)
    noted = Noted(monkeypatch, run, task)
    run_it(run)
    assert " ".join(noted.order) == (
        "step 1 asked step 2 step 3 asked step 4 asked asked step 5 asked step 6 step 7 asked asked"
    )


@pytest.mark.parametrize("setting", [{"optimizer": "adafactor"}, {"log_interval": 1}])
def test_where_that_cannot_be_every_step_is_known_before_the_next(
    accelerator: Any, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    task = Task()
    run = training(accelerator, config(**{"log_interval": 100, **setting}), task, total=3)
    noted = Noted(monkeypatch, run, task)
    run_it(run)
    first = [one for number, one in enumerate(noted.order) if one != "asked" or noted.order[number - 1] != "asked"]
    assert first == ["step 1", "asked", "step 2", "asked", "step 3", "asked"]


def test_a_step_asks_the_device_nothing(accelerator: Any) -> None:
    """Counted by the one operator that brings a number to the host."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Asked(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.found += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    window = windows(ITEMS, seed=42, epoch=0, size=2)[0]
    run = training(accelerator, config(max_grad_norm=1.0))
    step(run, window, 0, lambda: 0.1)  # in which AdamW makes its state
    with Asked() as mode:
        made = step(run, window, 0, lambda: 0.1)
        assert mode.found == 0
        assert made.happened()
        assert mode.found == 1


def test_what_is_not_finite_is_told_late_but_changes_nothing_and_counts_for_nothing(accelerator: Any) -> None:
    """The same run, with the books closed at once, and a step late; at step 8 something is due that does not happen."""
    both = []
    for interval in (100, 1):
        settings = config(log_interval=interval, lr_scheduler="linear", ema_decay=0.9, save_steps=8)
        run = training(accelerator, settings, broken_at(2, 5, 6, 10), total=20)
        seen, asked, _ = run_it(run)
        both.append((run, [e for e in seen if isinstance(e, Warned)], asked))
    (late, said, asked), (at_once, said_at_once, asked_at_once) = both
    assert said == said_at_once
    assert [e.message.split(" was")[0] for e in said] == ["step 3", "step 5", "step 5", "step 8"]
    assert asked == asked_at_once == ["save 8", "save 16"]
    assert late.position == at_once.position
    assert late.position.step == 16
    assert torch.equal(weight(late), weight(at_once))
    assert late.averages.state()[1] == at_once.averages.state()[1] == 16
    assert torch.equal(late.averages.state()[0][0], at_once.averages.state()[0][0])


def test_too_many_in_a_row_fail_a_step_late(accelerator: Any) -> None:
    run = training(accelerator, config(log_interval=100), broken_at(*range(1, 1 + SKIPS_ALLOWED)), total=60)
    before: list[torch.Tensor] = []
    real = run.averages.update
    run.averages.update = lambda: (before.append(weight(run)), real())[1]
    with pytest.raises(DivergedError, match=f"{SKIPS_ALLOWED} steps in a row were not finite"):
        run_it(run)
    assert (run.position.step, run.position.cursor) == (1, 1 + SKIPS_ALLOWED)
    assert torch.equal(weight(run), before[-1])


def test_a_pause_finds_nothing_open(accelerator: Any) -> None:
    run = training(accelerator, config(log_interval=100), total=6)
    studio, at = Recorder(), []
    studio.pause = lambda: at.append((run.position.step, run.position.cursor, run.whole))
    assert train(run, studio, asking((3, Requests(pause=True)), (4, Requests())), lambda event: None)
    assert at == [(3, 3, True)]


def test_what_fails_after_a_skipped_step_is_told_by_its_own_number(accelerator: Any) -> None:
    task = broken_at(2)
    real = task.factor
    task.factor = lambda window, epoch: real(window, epoch) if len(task.seen) < 4 else 1 // 0
    run = training(accelerator, config(log_interval=100), task, total=8)
    with pytest.raises(ZeroDivisionError):
        run_it(run)
    assert (run.doing, run.position.step, run.position.cursor) == ("training step 3", 2, 3)


def test_what_fails_in_a_step_loses_none_that_was_done(accelerator: Any) -> None:
    """Memory runs out in the fourth step's forward, when the third is not yet written down."""
    task = Task(lambda window, epoch: 1.0 if len(task.seen) < 4 else oh())

    def oh() -> float:
        raise torch.OutOfMemoryError

    run, alike = (training(accelerator, config(log_interval=100), one, total=8) for one in (task, Task()))
    with pytest.raises(torch.OutOfMemoryError):
        run_it(run)
    assert run.whole
    assert run.doing == "training step 4"
    assert (run.position.step, run.position.cursor) == (3, 3)
    for number in range(3):
        alike.position.cursor = number
        epoch, window = alike.next_window()
        taken(alike, window, epoch, 0.1)
    assert torch.equal(weight(run), weight(alike))


def test_half_a_step_is_none(accelerator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out within the optimizer: a part of the weights may have moved."""
    run = training(accelerator, config(log_interval=100), total=8)
    real, calls = run.optimizer.step, iter(range(10**6))

    def fail(*arguments: Any) -> None:
        if next(calls) == 2:
            raise torch.OutOfMemoryError
        real(*arguments)

    monkeypatch.setattr(run.optimizer, "step", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run_it(run)
    assert not run.whole
    assert run.position.step == 2


def test_a_wish_is_heard_at_the_step_it_comes_at(accelerator: Any) -> None:
    requests = asking((3, Requests(save=1)), (5, Requests(save=1, stop=True)))
    _, asked, reached = run_it(training(accelerator, config(log_interval=100), total=9), requests)
    assert not reached
    assert asked == ["save 3", "save 5"]


def test_too_many_in_a_row_fail_with_the_cure_and_fewer_do_not(accelerator: Any) -> None:
    run = training(accelerator, config(), broken_at(*range(1, SKIPS_ALLOWED)), total=60)
    assert run_it(run)[2]
    run = training(accelerator, config(), broken_at(*range(1, 1 + SKIPS_ALLOWED)), total=60)
    with pytest.raises(DivergedError, match=f"{SKIPS_ALLOWED} steps in a row were not finite") as error:
        run_it(run)
    assert "lower learning_rate" in error.value.cure
    assert run.position.step == 1


def test_a_run_without_a_single_step_fails(accelerator: Any) -> None:
    with pytest.raises(DivergedError, match="3 steps in a row were not finite"):
        run_it(training(accelerator, config(), broken_at(*range(9)), total=3))


def test_losses_of_skipped_steps_are_not_in_the_mean(accelerator: Any) -> None:
    whole = training(accelerator, config(log_interval=3), broken_at(1), total=4)
    told = [e for e in run_it(whole)[0] if isinstance(e, Step)]
    assert [e.step for e in told] == [1, 3]
    assert math.isfinite(told[1].loss)


@pytest.mark.parametrize("fused", [False, True])
def test_fp16_s_overflow_is_seen_whatever_the_optimizer(accelerator: Any, fused: bool) -> None:
    """A fused AdamW skips within its kernel, and accelerate says that it did not skip."""
    from accelerate.optimizer import AcceleratedOptimizer

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    task = broken_at(0, 1, value=math.inf)
    run = training(accelerator, config(), task, total=4)
    inner = torch.optim.AdamW(run.parameters, lr=0.1, fused=fused)
    optimizer = AcceleratedOptimizer(inner, scaler=scaler)
    run.optimizer = optimizer
    accelerator.scaler = scaler

    def clip(parameters: Any, limit: float) -> torch.Tensor:
        scaler.unscale_(inner)  # as accelerate does under fp16
        return nn.utils.clip_grad_norm_(parameters, limit)

    accelerator.clip_grad_norm_ = clip
    start = weight(run)
    seen, asked, reached = run_it(run)
    assert reached
    assert (run.position.cursor, run.position.step) == (4, 2)
    assert [e.step for e in seen if isinstance(e, Step)] == [1, 2]
    assert sum(isinstance(e, Warned) for e in seen) == 2
    assert scaler.get_scale() == 2.0**14  # it halved twice: it saw every step
    assert torch.isfinite(weight(run)).all()
    assert not torch.equal(weight(run), start)
    assert asked == ["save 2"]


def test_a_window_whose_gradients_overflow_in_fp16_is_done_again(accelerator: Any) -> None:
    """The loss is finite, times the loss scale it is not: nothing of the data is lost to finding the scale."""
    from accelerate.optimizer import AcceleratedOptimizer

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    task = Task(lambda window, epoch: 1000.0)
    run = training(accelerator, config(), task, total=4)
    inner = torch.optim.AdamW(run.parameters, lr=0.1)
    run.optimizer = AcceleratedOptimizer(inner, scaler=scaler)
    accelerator.scaler = scaler

    def clip(parameters: Any, limit: float) -> torch.Tensor:
        scaler.unscale_(inner)
        return nn.utils.clip_grad_norm_(parameters, limit)

    accelerator.clip_grad_norm_ = clip
    seen, _, reached = run_it(run)
    skipped = sum(isinstance(e, Warned) for e in seen)
    assert reached
    assert SKIPS_ALLOWED < skipped < OVERFLOWS_ALLOWED, "they have a limit of their own"
    assert (run.position.cursor, run.position.step) == (4, 4)
    expected = [[shown.key for shown in window] for window in windows(ITEMS, seed=42, epoch=0, size=2)]
    # A window that overflows comes again until it fits, and none is left out.
    assert [keys for keys, _ in groupby(keys for _, keys in task.seen)] == expected
    assert len(task.seen) == 4 + skipped


# --- averages


def test_a_moving_average_is_shown_and_the_training_goes_on_as_without(accelerator: Any) -> None:
    plain, averaged = (training(accelerator, config(ema_decay=decay), total=7) for decay in (0.0, 0.9))
    weights = []
    real = averaged.averages.update
    averaged.averages.update = lambda: (real(), weights.append(weight(averaged)))[0]
    run_it(plain)
    run_it(averaged)
    assert torch.equal(weight(plain), weight(averaged))
    expected = weights[0]  # the first step replaces the beginning whole
    for number, one in enumerate(weights[1:], 1):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * one
    with averaged.averages.shown():
        assert torch.allclose(weight(averaged), expected, rtol=1e-5)
    assert torch.equal(weight(plain), weight(averaged))
    with plain.averages.shown():
        assert torch.equal(weight(plain), weight(averaged))


# --- what is due


@pytest.mark.parametrize(("total", "asked", "every"), [(30, 100, 6), (1000, 100, 100), (499, 100, 99), (4, 100, 1)])
def test_there_are_at_least_five_checkpoints_whatever_save_steps_says(
    accelerator: Any, monkeypatch: pytest.MonkeyPatch, total: int, asked: int, every: int
) -> None:
    monkeypatch.setattr(runfolder, "CHECKPOINTS", 5)
    monkeypatch.setattr(loop, "step", lambda *_: Taken(torch.tensor(1.0), torch.tensor(1.0), 0.1, lambda: True))
    _, done, _ = run_it(training(accelerator, config(save_steps=asked, log_interval=1000), total=total))
    saved = [int(one.split()[1]) for one in done]
    assert saved == sorted({*range(every, total + 1, every), total})
    assert len(saved) >= min(5, total)


@pytest.mark.parametrize("log_interval", [1, 100])
def test_what_is_due_when(accelerator: Any, log_interval: int) -> None:
    """Whether a validation is due the studio knows; all are done, however seldom something is logged."""
    settings = config(save_steps=5, validation_steps=2, sample_every=4, log_interval=log_interval)
    run = training(accelerator, settings, total=11)
    studio = Recorder(every=3)
    assert train(run, studio, Requests, lambda event: None)
    assert studio.asked == [
        "validate 0", "validate 3", "sample 4", "save 5", "validate 6", "sample 8", "validate 9", "save 10",
        "save 11", "validate 11", "sample 11",
    ]  # fmt: skip


def test_without_validation_nobody_is_asked_for_one(accelerator: Any) -> None:
    _, asked, _ = run_it(training(accelerator, config(), total=3))
    assert asked == ["save 3"]


@pytest.mark.parametrize(("enough", "saved"), [(3, ["save 3"]), (4, ["save 3", "save 4"])])
def test_where_training_on_is_of_no_use_it_ends_as_at_the_last_step(
    accelerator: Any, enough: int, saved: list[str]
) -> None:
    run = training(accelerator, config(save_steps=3, validation_steps=1, sample_every=100), total=7)
    _, asked, reached = run_it(run, enough=enough)
    assert reached
    assert run.position == Position(step=enough, cursor=enough, total=7)
    assert [a for a in asked if "save" in a] == saved
    assert asked[-1] == f"sample {enough}"


def test_a_run_that_was_ended_so_does_not_go_on_by_itself(accelerator: Any) -> None:
    run = training(accelerator, config(validation_steps=1), total=7)
    run.position, run.saved = Position(step=4, cursor=4, total=7), 4
    assert run_it(run, enough=4) == ([], ["validate 4"], True)


def test_what_fails_beside_the_training_costs_no_step(accelerator: Any) -> None:
    """A sample that runs out of memory: the step's checkpoint is there, and the run goes on past the sample."""
    run = training(accelerator, config(save_steps=3, sample_every=3), total=7)
    studio = Recorder()

    def fail(position: Position) -> None:
        raise torch.OutOfMemoryError

    studio.sample = fail
    with pytest.raises(torch.OutOfMemoryError):
        train(run, studio, Requests, lambda event: None)
    assert studio.asked == ["save 3"]


def test_nothing_is_done_twice_when_the_run_goes_on(accelerator: Any) -> None:
    settings = config(save_steps=3, validation_steps=2)
    run = training(accelerator, settings, total=7)
    run.position = Position(step=3, cursor=3, total=7)
    seen, asked, _ = run_it(run)
    assert [a for a in asked if "save" in a] == ["save 6", "save 7"]
    assert [a for a in asked if "validate" in a][:2] == ["validate 3", "validate 4"]
    assert [e.step for e in seen if isinstance(e, Step)] == [4, 5, 6, 7]


def test_the_log_is_the_mean_since_the_last_line(accelerator: Any) -> None:
    every = [e.loss for e in run_it(training(accelerator, config(), total=7))[0] if isinstance(e, Step)]
    third = [e for e in run_it(training(accelerator, config(log_interval=3), total=7))[0] if isinstance(e, Step)]
    assert [e.step for e in third] == [1, 3, 6, 7]
    expected = [every[0], sum(every[1:3]) / 2, sum(every[3:6]) / 3, every[6]]
    assert [e.loss for e in third] == pytest.approx(expected, rel=1e-5)


def test_a_run_that_is_at_its_end_does_nothing(accelerator: Any) -> None:
    run = training(accelerator, config(validation_steps=1), total=4)
    run.position = Position(step=4, cursor=4, total=4)
    assert run_it(run) == ([], ["validate 4"], True)


# --- requests


def asking(*at: tuple[int, Requests]) -> Callable[[], Requests]:
    """Requests by the number of the poll, counted from 1; what was asked stands until the next change."""
    polls = iter(range(1, 10**6))
    changes = dict(at)
    state = [Requests()]

    def poll() -> Requests:
        state[0] = changes.get(next(polls), state[0])
        return state[0]

    return poll


def test_each_increase_is_one_save_or_sample(accelerator: Any) -> None:
    requests = asking((2, Requests(save=1)), (4, Requests(save=1, sample=1)), (5, Requests(save=3, sample=1)))
    _, asked, _ = run_it(training(accelerator, config(), total=7), requests)
    assert asked == ["save 2", "sample 4", "save 5", "save 7"]


def test_what_was_asked_while_loading_is_done_after_the_first_step(accelerator: Any) -> None:
    _, asked, _ = run_it(training(accelerator, config(), total=3), asking((1, Requests(save=1, sample=1))))
    assert asked == ["save 1", "sample 1", "save 3"]


def test_a_stop_only_saves_and_is_quick(accelerator: Any) -> None:
    settings = config(validation_steps=3, sample_every=3)
    run = training(accelerator, settings, total=8)
    _, asked, reached = run_it(run, asking((3, Requests(stop=True))))
    assert not reached
    assert run.position.step == 3
    assert asked == ["validate 0", "validate 1", "validate 2", "save 3"]


@pytest.mark.parametrize("further", [0, 2])
def test_a_stop_of_a_run_that_was_broken_off_between_two_steps_saves(accelerator: Any, further: int) -> None:
    """Memory ran out while a sample was drawn at step 5; the checkpoint before it may be that of step 3."""
    run = training(accelerator, config(), total=8)
    run.position.step = run.position.cursor = 5
    run.saved, run.due = 5 - further, ["sample"]
    _, asked, reached = run_it(run, lambda: Requests(stop=True, sample=1))
    assert not reached
    assert asked == ["sample 5", *(["save 5"] if further else []), "sample 5"]
    assert run.position.step == 5


def test_a_stop_while_it_pauses_takes_no_further_step(accelerator: Any) -> None:
    requests = asking((2, Requests(pause=True)), (3, Requests(pause=True, stop=True)))
    _, asked, reached = run_it(training(accelerator, config(), total=4), requests)
    assert not reached
    assert asked == ["pause", "save 2"]


def test_what_was_asked_as_too_many_steps_failed_is_not_forgotten(accelerator: Any) -> None:
    """The run goes on from its checkpoint, with ``run.asked`` as what was done already."""
    run = training(accelerator, config(log_interval=100), broken_at(*range(20)), total=20)
    with pytest.raises(DivergedError):
        run_it(run, asking((SKIPS_ALLOWED + 1, Requests(sample=1))))
    assert run.asked.sample == 0


def test_a_stop_at_the_last_step_is_the_end(accelerator: Any) -> None:
    _, asked, reached = run_it(training(accelerator, config(), total=3), asking((3, Requests(stop=True))))
    assert reached
    assert asked == ["save 3"]


def test_a_pause_is_taken_between_two_steps_but_not_after_the_last(accelerator: Any) -> None:
    requests = asking(
        (2, Requests(pause=True)), (3, Requests()), (5, Requests(pause=True))
    )  # the third is in the pause
    _, asked, reached = run_it(training(accelerator, config(), total=4), requests)
    assert reached
    assert asked == ["pause", "save 4"]
