"""Schedules as pure functions of the step, AdamW against torch's own, and a state that comes back exactly."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from trainer import optim
from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError
from trainer.files import write_tensors


def config(**fields: Any) -> TrainConfig:
    return parse({"learning_rate": 1.0, "warmup_steps": 0, **fields})


def rates(settings: TrainConfig, total: int, extended_at: int = 0, start: int = 0) -> list[float]:
    return [optim.rate(settings, step, total, extended_at) for step in range(start, total)]


# --- schedules


def test_the_shapes_without_warm_up() -> None:
    assert rates(config(lr_scheduler="constant"), 4) == [1, 1, 1, 1]
    assert rates(config(lr_scheduler="linear"), 4) == [1, 0.75, 0.5, 0.25]
    cosine = rates(config(lr_scheduler="cosine"), 4)
    assert cosine == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)])
    assert cosine[2] == pytest.approx(0.5)


def test_restarts_begin_each_cycle_anew_and_a_power_bends_the_line() -> None:
    restarts = rates(config(lr_scheduler="cosine_with_restarts", lr_cycles=2), 8)
    assert restarts[:4] == restarts[4:] == pytest.approx(rates(config(lr_scheduler="cosine"), 4))
    assert rates(config(lr_scheduler="cosine_with_restarts"), 8) == pytest.approx(
        rates(config(lr_scheduler="cosine"), 8)
    )
    assert rates(config(lr_scheduler="polynomial"), 8) == rates(config(lr_scheduler="linear"), 8)
    squared = rates(config(lr_scheduler="polynomial", lr_power=2.0), 8)
    assert squared == pytest.approx([rate**2 for rate in rates(config(lr_scheduler="linear"), 8)])


@pytest.mark.parametrize(("total", "taken"), [(130, 6), (1000, 50), (2000, 100), (9000, 100), (19, 0)])
def test_an_automatic_warm_up_is_a_twentieth_at_most_100(total: int, taken: int) -> None:
    assert optim.warmup(config(warmup_steps="auto"), total) == taken


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_the_warm_up_rises_evenly_to_the_whole_rate(name: str) -> None:
    found = rates(config(lr_scheduler=name, warmup_steps=3), 40)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert max(found) == 1.0
    # What comes after is the shape over what is left.
    assert found[3:] == pytest.approx(rates(config(lr_scheduler=name), 37))


@pytest.mark.parametrize(("asked", "total", "taken"), [(100, 130, 13), (100, 1000, 100), (100, 2000, 100),
                                                       (100, 9, 0), (0, 1000, 0), (5, 50, 5), (5, 49, 4)])  # fmt: skip
def test_the_warm_up_is_at_most_a_tenth_of_the_run(asked: int, total: int, taken: int) -> None:
    """The guide's 100 steps would be most of a small data set's run."""
    settings = config(warmup_steps=asked, lr_scheduler="constant")
    assert optim.warmup(settings, total) == taken
    assert sum(rate < 1 for rate in rates(settings, total)) == taken


def test_the_rate_scales_with_the_learning_rate() -> None:
    one, other = config(warmup_steps=4), config(warmup_steps=4, learning_rate=2e-4)
    assert rates(other, 50) == pytest.approx([2e-4 * rate for rate in rates(one, 50)])


@given(
    name=st.sampled_from(["constant", "linear", "cosine", "polynomial"]),
    warm=st.integers(0, 200),
    total=st.integers(1, 300),
    extended=st.integers(0, 299),
)
def test_every_step_of_every_run_has_a_rate_within_bounds(name: str, warm: int, total: int, extended: int) -> None:
    settings = config(lr_scheduler=name, warmup_steps=warm)
    extended = min(extended, total - 1)
    found = rates(settings, total, extended, start=extended)
    assert all(0 < rate <= 1 for rate in found)
    if not extended:  # it rises, and then it never rises again
        top = optim.warmup(settings, total)
        assert found[: top + 1] == sorted(found[: top + 1])
        assert found[top:] == sorted(found[top:], reverse=True)


def test_an_extension_warms_up_again_and_then_follows_the_longer_schedule() -> None:
    settings = config(lr_scheduler="cosine", warmup_steps=5)
    longer = rates(settings, 200)
    found = rates(settings, 200, extended_at=100, start=100)
    assert found[:5] == pytest.approx([longer[100 + n] * (n + 1) / 6 for n in range(5)])  # a twentieth of 100 steps
    assert found[5:] == longer[105:]
    assert optim.rate(settings, 11, 12, extended_at=11) == pytest.approx(rates(settings, 12)[11] / 2)


# --- AdamW


def layers(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,), (2, 3, 3, 3))]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    """Steps with gradients that depend on the weights and the step."""
    for step in steps:
        optim.set_rate(optimizer, 0.01 * (step + 1))
        for parameter in parameters:
            parameter.grad = (parameter.detach() - 0.1 * step).sin()
        optimizer.step()


def test_the_optimizer_is_adamw_as_published() -> None:
    """Loshchilov and Hutter, algorithm 2, with torch's defaults for the betas and eps."""
    settings = config(learning_rate=0.01, weight_decay=0.1)
    mine, expected = layers(), [p.detach().double().clone() for p in layers()]
    optimizer = optim.make(settings, mine)
    first, second = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for step in range(1, 6):
        for parameter, value, m, v in zip(mine, expected, first, second, strict=True):
            gradient = value.sin()
            parameter.grad = parameter.detach().sin()
            m.mul_(0.9).add_(0.1 * gradient)
            v.mul_(0.999).add_(0.001 * gradient**2)
            update = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            value.sub_(0.01 * (update + 0.1 * value))
        optimizer.step()
    for parameter, value in zip(mine, expected, strict=True):
        assert torch.allclose(parameter.double(), value, rtol=1e-5, atol=1e-6)


def test_it_equals_torch_s_plain_adamw() -> None:
    mine, theirs = layers(), layers()
    train(optim.make(config(learning_rate=0.5, weight_decay=0.1), mine), mine, range(10))
    train(torch.optim.AdamW(theirs, lr=0.5, weight_decay=0.1, fused=False), theirs, range(10))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(mine, theirs, strict=True))


def test_config_reaches_the_optimizer() -> None:
    optimizer = optim.make(config(learning_rate=3e-4, weight_decay=0.25), layers())
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (3e-4, 0.25, 3)
    assert group["fused"]
    optim.set_rate(optimizer, 0.125)
    assert group["lr"] == 0.125


# --- the others

EVERY = ["adamw", "adamw8bit", "adafactor", "prodigy", "lion", "schedulefree"]
NEEDS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "lion": "lion_pytorch", "schedulefree": "schedulefree"}


def of(name: str, **fields: Any) -> TrainConfig:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return config(optimizer=name, **{"learning_rate": 1.0 if name == "prodigy" else 0.01, **fields})


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_goes_downhill(name: str) -> None:
    parameters = layers()
    optimizer = optim.make(of(name), parameters)
    optim.start(optimizer)

    def height() -> float:
        with optim.averaged(optimizer):
            return sum(p.detach().square().sum().item() for p in parameters)

    before = height()
    for _ in range(100):
        for parameter in parameters:
            parameter.grad = 2 * parameter.detach()
        optimizer.step()
    assert height() < 0.75 * before


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    settings = of(name, weight_decay=0.1)

    def stepped(optimizer: Any, parameters: list[nn.Parameter], steps: range) -> None:
        optim.start(optimizer)
        train(optimizer, parameters, steps)

    unbroken = layers()
    stepped(optim.make(settings, unbroken[:1], unbroken[1:]), unbroken, range(9))
    first = layers()
    optimizer = optim.make(settings, first[:1], first[1:])
    stepped(optimizer, first, range(4))
    tensors, numbers = optim.state(optimizer, NAMES)
    write_tensors(tmp_path / "state.safetensors", tensors)
    numbers = json.loads(json.dumps(numbers))
    with optim.averaged(optimizer):
        pass  # looking at the average changes nothing
    second = [nn.Parameter(p.detach().clone()) for p in first]
    optimizer = optim.make(settings, second[:1], second[1:])
    optim.load_state(optimizer, NAMES, load_file(tmp_path / "state.safetensors"), numbers)
    stepped(optimizer, second, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(second, unbroken, strict=True))


def test_an_average_is_shown_and_the_trained_weights_come_back_to_the_bit() -> None:
    parameters = layers()
    optimizer = optim.make(of("schedulefree"), parameters)
    optim.start(optimizer)
    train(optimizer, parameters, range(5))
    before = [p.detach().clone() for p in parameters]
    with optim.averaged(optimizer):
        assert not any(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    train(optimizer, parameters, range(5, 6))  # it trains on


def test_text_encoders_have_a_rate_of_their_own() -> None:
    first, *rest = layers()
    optimizer = optim.make(config(learning_rate=2e-4), [first], rest)
    optim.set_rate(optimizer, 1e-4)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 5e-5]
    given = config(learning_rate=2e-4, train_text_encoder=True, text_encoder_learning_rate=2e-5)
    optimizer = optim.make(given, [first], rest)
    optim.set_rate(optimizer, 2e-4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2e-4, 2e-5])
    prodigy = config(optimizer="prodigy")
    assert prodigy.text_rate == prodigy.learning_rate == 1.0


def test_schedulefree_has_no_schedule_but_warms_up() -> None:
    settings = config(optimizer="schedulefree", lr_scheduler="cosine", warmup_steps=3)
    assert rates(settings, 40) == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 37])


def test_more_settings_reach_the_optimizer() -> None:
    (group,) = optim.make(config(optimizer_args={"eps": 1e-6}), layers()).param_groups
    assert group["eps"] == 1e-6
    (group,) = optim.make(of("prodigy", optimizer_args={"d_coef": 2.0}), layers()).param_groups
    assert (group["d_coef"], group["decouple"], group["safeguard_warmup"]) == (2.0, True, True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer_args": {"lr": 1}}, "optimizer_args.lr: cannot be given here; set learning_rate"),
        (
            {"optimizer_args": {"weight_decay": 1}},
            "optimizer_args.weight_decay: cannot be given here; set weight_decay",
        ),
        ({"optimizer_args": {"fused": True}}, "optimizer_args.fused: cannot be given here; it is chosen by itself"),
        (
            {"optimizer_args": {"epsilon": 1}, "optimizer": "adafactor"},
            "optimizer_args.epsilon: adafactor has no such setting; it has beta1, clip_threshold, decay_rate, eps, "
            "relative_step, scale_parameter, warmup_init",
        ),
        (
            {"optimizer_args": {"eps": -1.0}},
            "optimizer_args: adamw cannot use {'eps': -1.0}: Invalid epsilon value: -1.0",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        optim.make(config(**fields), layers())
    assert error.value.problems == (message,)


@pytest.mark.parametrize(("name", "package"), [("prodigy", "prodigyopt"), ("lion", "lion-pytorch")])
def test_a_package_that_is_missing_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    with pytest.raises(ConfigError) as error:
        optim.make(config(optimizer=name), layers())
    (problem,) = error.value.problems
    assert problem.startswith(f"optimizer: the package {package} is not installed, or does not work here (")
    assert problem.endswith(f"); pip install {package}, or take optimizer: adamw")


# --- its state


NAMES = ["a.down", "a.up", "b|odd.down"]


def test_a_state_that_was_written_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = config(learning_rate=0.1, weight_decay=0.1)
    unbroken = layers()
    train(optim.make(settings, unbroken), unbroken, range(9))

    first = layers()
    optimizer = optim.make(settings, first)
    train(optimizer, first, range(4))
    write_tensors(tmp_path / "weights.safetensors", dict(zip(NAMES, first, strict=True)))
    tensors, numbers = optim.state(optimizer, NAMES)
    write_tensors(tmp_path / "state.safetensors", tensors)
    numbers = json.loads(json.dumps(numbers))

    weights, state = (load_file(tmp_path / f"{name}.safetensors") for name in ("weights", "state"))
    second = [nn.Parameter(weights[name]) for name in NAMES]
    optimizer = optim.make(settings, second)
    optim.load_state(optimizer, NAMES, dict(reversed(state.items())), numbers)  # the order of a file is its own
    train(optimizer, second, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(second, unbroken, strict=True))


def test_the_state_is_named_by_parameter_and_entry() -> None:
    parameters = layers()
    optimizer = optim.make(config(), parameters)
    assert optim.state(optimizer, NAMES)[0] == {}
    train(optimizer, parameters, range(2))
    state, _ = optim.state(optimizer, NAMES)
    assert set(state) == {f"{name}|{entry}" for name in NAMES for entry in ("step", "exp_avg", "exp_avg_sq")}
    assert state["a.up|exp_avg"].shape == (7,)
    assert all(float(state[f"{name}|step"]) == 2 for name in NAMES)


def test_what_is_loaded_is_a_copy() -> None:
    parameters = layers()
    optimizer = optim.make(config(learning_rate=0.1), parameters)
    train(optimizer, parameters, range(2))
    tensors, numbers = optim.state(optimizer, NAMES)
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    optim.load_state(optimizer, NAMES, saved, numbers)
    train(optimizer, parameters, range(2, 4))
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
