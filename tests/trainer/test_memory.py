"""What is given up for memory: in which order, what that brings, and how it is said."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer import memory, optim
from trainer.config import TrainConfig, parse
from trainer.gauge import GB
from trainer.memory import Plan, Possible, Savings

ALL = Possible(half=True, int8=True, nf4=True, activations_in_ram=True, paged=True)
FIRST = Savings(half=False, batch=4, checkpointing=False)


def test_the_ladder_s_order() -> None:
    rungs = [FIRST, *memory.ladder(FIRST, ALL)]
    changes = [
        {name: value for name, value in vars(after).items() if getattr(before, name) != value}
        for before, after in itertools.pairwise(rungs)
    ]
    assert changes == [
        {"half": True},
        {"batch": 2},
        {"batch": 1},
        {"checkpointing": True},
        {"base": "int8"},
        {"activations_in_ram": True},
        {"paged": True},
        {"base": "nf4"},
    ]
    assert memory.next(rungs[-1], ALL) is None


def test_what_is_not_possible_is_passed_over_and_what_the_user_chose_stays() -> None:
    assert [rung.batch for rung in memory.ladder(replace(FIRST, batch=7), Possible())] == [4, 2, 1, 1]
    chosen = Savings(half=True, batch=1, checkpointing=True, base="fp8")
    assert list(memory.ladder(chosen, Possible(paged=True))) == [replace(chosen, paged=True)]
    assert list(memory.ladder(chosen, Possible())) == []


def plan(free: float = 8.0, activations: float = 6.0) -> Plan:
    """SDXL in 16 bits at 1024 pixels, about."""
    return Plan(0, 5 * GB, GB // 2, int(activations * GB), GB, int(free * GB))


BF16 = Savings(half=True, batch=1, checkpointing=False)


def test_a_plan_is_its_parts_and_samples_and_activations_share_their_place() -> None:
    assert plan().total == int(11.5 * GB)
    assert plan(activations=0.5).total == int(6.5 * GB)
    assert not plan(11).fits
    assert plan(11.5).fits


@pytest.mark.parametrize(
    ("now", "then", "base", "activations"),
    [
        (BF16, replace(BF16, checkpointing=True), 5, 1.5),
        (replace(BF16, batch=4), replace(BF16, batch=1), 5, 1.5),
        (BF16, replace(BF16, base="int8"), 2.6, 6),
        (replace(BF16, base="int8"), replace(BF16, base="nf4"), 5 * 0.3 / 0.52, 6),
        (BF16, replace(BF16, paged=True), 0.75, 6),
        (replace(BF16, half=False), BF16, 2.5, 3),
        (replace(BF16, half=False), replace(BF16, base="nf4"), 0.75, 3),
        (replace(BF16, half=False, base="fp8"), replace(BF16, base="fp8"), 5, 3),
    ],
)
def test_what_other_savings_are_reckoned_to_need(now: Savings, then: Savings, base: float, activations: float) -> None:
    found = plan().reckoned(now, then)
    assert found.base / GB == pytest.approx(base, rel=0.01)
    assert found.activations / GB == pytest.approx(activations, rel=0.01)
    assert (found.adapter, found.free) == (plan().adapter, plan().free)


def test_as_much_is_given_up_at_once_as_is_reckoned_to_be_needed() -> None:
    begin = replace(BF16, batch=4)
    assert memory.enough(plan(13.5, 24), begin, ALL) == replace(begin, batch=1)
    assert memory.enough(plan(8, 24), begin, ALL) == replace(begin, batch=1, checkpointing=True)
    assert memory.enough(plan(6, 24), begin, ALL) == replace(begin, batch=1, checkpointing=True, base="int8")
    assert memory.enough(plan(0.1, 24), begin, ALL) == replace(begin, batch=2), "where nothing would do, the next"
    last = [*memory.ladder(begin, ALL)][-1]
    assert memory.enough(plan(0.1), last, ALL) is None


def test_a_base_that_does_not_fit_alone_is_not_met_by_smaller_batches() -> None:
    begin = replace(BF16, batch=4)
    assert memory.lighter_base(begin, ALL) == replace(begin, batch=1, checkpointing=True, base="int8")
    assert memory.lighter_base(begin, Possible()) is None


def test_each_switch_is_told_with_what_it_alone_would_save() -> None:
    found = memory.switches(plan(), replace(BF16, batch=2), ALL)
    assert {name: round(size / GB, 1) for name, size in found.items()} == {
        "batch_size: 1": 3.0,
        "gradient_checkpointing: true": 4.5,
        "base_weights: int8": 2.4,
        "base_weights: nf4": 3.5,
        "the base model in RAM": 4.2,
    }
    assert memory.saving(found).startswith("batch_size: 1 3.0 GB, gradient_checkpointing: true 4.5 GB (the guide: ")
    config = parse({"resolution": 1024, "lora_rank": 8})
    assert {name: round(size / GB, 2) for name, size in memory.advised(plan(), config).items()} == {
        "resolution: 768": 2.62,
        "lora_rank: 4": 0.25,
    }


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_says_that_memory_is_out(error: BaseException, is_one: bool) -> None:
    assert memory.ran_out(error) is is_one


def test_what_is_given_up_is_said_with_what_it_costs() -> None:
    last = [*memory.ladder(FIRST, ALL)][-1]
    assert memory.told(FIRST, last, "bf16") == (
        "the base model in bf16 (half its memory), 1 at a time, accumulated (the same result, a little slower), "
        "gradient checkpointing (the same result, a third slower), the base model in nf4 (half its memory or less; its "
        "weights are rounded), activations kept in RAM (the same result, slower), the base model in RAM, block by "
        "block on the card (the same result, slower)"
    )
    assert memory.described(last, "bf16") == (
        "bf16 on a base in nf4, 1 at a time, checkpointing, activations in RAM, base in RAM, by blocks"
    )
    assert memory.described(FIRST, "fp32") == "fp32, 4 at a time"


def test_what_a_run_came_to_is_remembered_for_the_same_settings_alone(tmp_path: Path) -> None:
    settings = {"batch_size": 4, "vram_limit": None}
    assert memory.remembered(tmp_path, settings) is None
    memory.remember(tmp_path, BF16, settings)
    assert memory.remembered(tmp_path, settings) == BF16
    assert memory.remembered(tmp_path, settings | {"vram_limit": 8.0}) is None
    (tmp_path / "memory.json").write_text("{", encoding="utf-8")
    assert memory.remembered(tmp_path, settings) is None
    memory.remember(tmp_path, BF16, settings)
    text = (tmp_path / "memory.json").read_text(encoding="utf-8").replace('"batch"', '"of a later version"')
    (tmp_path / "memory.json").write_text(text, encoding="utf-8")
    assert memory.remembered(tmp_path, settings) is None


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor", "prodigy", "lion", "schedulefree"])
def test_what_an_optimizer_will_keep_is_what_it_then_keeps(config: TrainConfig, name: str) -> None:
    config = config.but(optimizer=name, learning_rate=1.0 if name == "prodigy" else 1e-3)
    parameters = [torch.nn.Parameter(torch.randn(size)) for size in ((8, 640), (640, 8), (8, 640), (100,))]
    reckoned = optim.will_keep(config, parameters)
    optimizer = optim.make(config, parameters)
    optim.start(optimizer)
    assert optim.kept(optimizer) == 0
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert reckoned == optim.kept(optimizer) > 0
