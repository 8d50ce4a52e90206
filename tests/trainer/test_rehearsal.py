"""What the dry step computes, and that it leaves nothing behind; by tensors, which is exact at any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.trainer.test_loop import ITEMS, accelerator, config, training
from trainer import gauge, rehearsal
from trainer.gauge import Gauge
from trainer.rehearsal import Known, Measured, largest, rehearse, replayed
from trainer.step import forward_backward
from trainer.trained import Trained
from trainer.training import Training

__all__ = ["accelerator"]
WIDTH, ROWS = 256, 64
ROW, SQUARE = ROWS * WIDTH * 4, WIDTH * WIDTH * 4  # bytes of what a layer gives for a sample, and of a weight


class Deep(nn.Module):
    """Four frozen layers, each with something trainable behind it, and a non-linearity that keeps its result."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(WIDTH)) for _ in range(4))
        self.layers.requires_grad_(False)
        self._checkpointed = checkpointed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def block(x: torch.Tensor, number: int) -> torch.Tensor:
            return torch.tanh(self.layers[number](x) * self.scales[number])

        for number in range(4):
            x = checkpoint(block, x, number, use_reentrant=False) if self._checkpointed else block(x, number)
        return x


@dataclass
class Wide:
    """A task whose batch is a row a sample."""

    seen: int = 0

    def batch(self, shown: Any, epoch: int) -> torch.Tensor:
        self.seen = len(shown)
        return torch.ones(len(shown) * ROWS, WIDTH)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().mean(1)

    def probe(self, model: nn.Module) -> None:
        with torch.no_grad():
            self.loss(model, torch.ones(ROWS, WIDTH))


@pytest.fixture(autouse=True)
def _by_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauge, "_CLEAR", Path("/not there/clear_refs"))


def rehearsed(accelerator: Any, *, batch: int, accumulation: int = 1, checkpointed: bool = False) -> Any:
    model = Deep(checkpointed)
    run = training(accelerator, config(batch_size=batch, gradient_accumulation_steps=accumulation))
    parameters = list(model.scales)
    task = Wide()
    run = replace(
        run, model=model, parameters=parameters, task=cast(Any, task), gauge=Gauge(torch.device("cpu")),
        items=tuple(replace(item, repeats=8) for item in ITEMS),
    )  # fmt: skip
    trained = Trained(cast(Any, None), {"unet": model})
    found = rehearse(run, trained, 10**9)
    assert task.seen == batch
    assert all(parameter.grad is None for parameter in parameters)
    assert model.training
    return found


def test_the_plan_s_parts_are_what_the_tensors_take(accelerator: Any) -> None:
    seconds, plan = rehearsed(accelerator, batch=4)
    assert seconds > 0
    assert plan.base == 4 * SQUARE
    weights = 4 * WIDTH * 4
    assert plan.adapter == 4 * weights + 4 * 4, "weights, gradients, AdamW's two averages and its four counts"
    # The input; what each block keeps: the layer's output, for the scale, and the tanh's; at the beginning of backward
    # the square, its gradient, and the gradient of what was squared.
    assert plan.activations == pytest.approx((1 + 4 * 2 + 3) * 4 * ROW, rel=0.05)
    assert plan.samples == pytest.approx(3 * ROW, rel=0.35)
    assert plan.free == 10**9


def test_activations_grow_with_the_batch_and_checkpointing_keeps_what_goes_into_a_block(accelerator: Any) -> None:
    sizes = {batch: rehearsed(accelerator, batch=batch).plan.activations for batch in (1, 2, 4)}
    assert sizes[4] == pytest.approx(2 * sizes[2], rel=0.05)
    assert sizes[2] == pytest.approx(2 * sizes[1], rel=0.05)
    less = rehearsed(accelerator, batch=4, checkpointed=True).plan.activations
    # The inputs of four blocks, and one block's inside.
    assert less == pytest.approx((4 + 4) * 4 * ROW, rel=0.25)
    assert less < sizes[4]


def test_gradients_count_once_whether_they_are_accumulated_or_not(accelerator: Any) -> None:
    alone, more = (rehearsed(accelerator, batch=2, accumulation=n).plan for n in (1, 2))
    assert more.adapter == alone.adapter
    assert more.activations == pytest.approx(alone.activations, abs=4 * WIDTH * 4)


def test_what_the_optimizer_keeps_already_is_not_counted_twice(accelerator: Any) -> None:
    run = training(accelerator, config(), total=4)
    run.task = cast(Any, Still())
    trained = Trained(cast(Any, None), {"unet": run.model})
    before = rehearse(run, trained, 1).plan.adapter
    for parameter in run.parameters:
        parameter.grad = torch.ones_like(parameter)
    run.optimizer.step()
    assert rehearse(run, trained, 1).plan.adapter == before


@pytest.mark.usefixtures("knows")
def test_what_is_known_is_not_tried_again(accelerator: Any, tmp_path: Path) -> None:
    run = training(accelerator, config(), total=4)
    run.task = still = cast(Any, Still())
    trained = Trained(cast(Any, None), {"unet": run.model})
    tried: list[str] = []

    def rehearsed_as(name: str, free: int) -> Any:
        still.seen = 0
        known = Known(tmp_path / "c\u00e4che", name)
        found = rehearse(run, trained, free, known=known, begin=lambda: tried.append(name))
        return found, still.seen > 0

    first, computed = rehearsed_as("one", 10)
    assert computed
    again, computed = rehearsed_as("one", 20)
    assert not computed
    assert again.seconds == first.seconds
    assert replace(again.plan, process=0) == replace(first.plan, process=0, free=20)  # the process is as it is now
    _, computed = rehearsed_as("other", 10)
    assert computed
    assert tried == ["one", "other"]


@pytest.mark.usefixtures("knows")
@pytest.mark.parametrize("content", ["", "[]", '{"KEY": [1, 2]}', '{"KEY": "x"}', '{"KEY": null}', "no JSON"])
def test_a_file_that_is_none_of_ours_is_no_answer_and_is_replaced(tmp_path: Path, content: str) -> None:
    known = Known(tmp_path, "a")
    (tmp_path / "rehearsals.json").write_text(content.replace("KEY", known._key), "utf-8")
    assert known.find() is None
    known.keep(Measured(0.5, 7, 3))
    assert Known(tmp_path, "a").find() == Measured(0.5, 7, 3)
    assert Known(tmp_path, "b").find() is None


@pytest.mark.usefixtures("knows")
def test_only_so_many_are_kept_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "MOST_KEPT", 2)
    for number in range(3):
        Known(tmp_path, number).keep(Measured(number, number, number))
    assert [Known(tmp_path, number).find() is None for number in range(3)] == [True, False, False]


class Still(Wide):
    """A task for the loop's own small model."""

    def batch(self, shown: Any, epoch: int) -> torch.Tensor:
        self.seen = len(shown)
        return torch.ones(len(shown), 3)

    def loss(self, model: Any, batch: torch.Tensor) -> torch.Tensor:
        return batch @ model.weight

    def probe(self, model: nn.Module) -> None:
        pass


def test_it_is_the_micro_batch_with_the_most_pixels(accelerator: Any) -> None:
    small, large = replace(ITEMS[0], bucket=(64, 64), repeats=8), replace(ITEMS[1], bucket=(64, 128))

    def shown(run: Training, *items: Any) -> list[str]:
        run.items = items
        return [one.key for one in largest(run)]

    run = training(accelerator, config(batch_size=4))
    run.batch = 2
    assert shown(run, replace(small, repeats=1), large) == [f"{large.id}#0"]
    assert shown(run, small) == [f"{small.id}#0", f"{small.id}#1"], "a whole one, as the sampler would give it"
    run.batch = 4
    assert shown(run, small, large) == [f"{small.id}#{n}" for n in range(4)], "four small are more than a large"


class Slowly:
    """A recorder of which the first two micro-batches take longer: one is tried, one is recorded."""

    def __init__(self, run: Training, clock: list[float]) -> None:
        self.run, self.clock = run, clock
        self.calls: list[str] = []
        self.shares: list[float] = []

    def begin(self) -> None:
        self.calls.append("begin")

    def __call__(self, batch: Any, share: float) -> torch.Tensor:
        self.calls.append(f"{len(batch[0])} rows")
        self.shares.append(share)
        self.clock[0] += (20.0, 5.0, 0.25)[len(self.shares) - 1]
        return forward_backward(self.run, batch, share)


def test_a_recorded_micro_batch_takes_what_its_replay_does(accelerator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: clock[0])
    run = training(accelerator, config(batch_size=2))
    slowly = Slowly(run, clock)
    run.recorder = cast(Any, slowly)
    assert replayed(run) == 0.25
    assert slowly.calls == ["begin", "2 rows"] * 3
    assert slowly.shares == [0.5] * 3
