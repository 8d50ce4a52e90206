"""Putting adapters on: which layers, of which rank, from which seed, by every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.adapters.small import CASES, Small, adapted, is_target, move, predict
from trainer import adapters
from trainer.errors import ConfigError


def inject(model: nn.Module, **settings: Any) -> None:
    adapters.inject(model, is_target, **{"rank": 4, "alpha": 4.0, "seed": 0, **settings})


def sizes(model: nn.Module) -> dict[str, tuple[int, float]]:
    return {layer.name: (layer.rank, layer.alpha) for layer in adapters.layers(model)}


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_adapter_changes_nothing(case: str) -> None:
    before = predict(Small())
    model = adapted(case, fresh=True)
    assert torch.equal(predict(model), before)
    assert {layer.method for layer in adapters.layers(model)} == {CASES[case]["method"]}
    assert all(torch.count_nonzero(layer.change()) == 0 for layer in adapters.layers(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_only_the_adapters_are_trained_and_they_are_fp32(case: str, dtype: torch.dtype) -> None:
    model = Small().to(dtype)
    adapters.inject(model, is_target, rank=4, alpha=4.0, seed=0, **{"method": CASES[case]["method"]})
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in adapters.parameters(model).values()}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}


@pytest.mark.parametrize("method", adapters.METHODS)
def test_the_start_is_a_function_of_the_seed_and_moves_no_generator(method: str) -> None:
    started = []
    for seed in (0, 0, 1):
        model = Small()
        torch.manual_seed(len(started))
        before = torch.get_rng_state()
        inject(model, method=method, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        started.append(torch.cat([p.detach().flatten() for p in adapters.parameters(model).values()]))
    assert torch.equal(started[0], started[1])
    assert not torch.equal(started[0], started[2])


@pytest.mark.parametrize("case", CASES)
def test_a_step_moves_every_adapter_and_nothing_else(case: str) -> None:
    model = adapted(case)
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = {name: p.detach().clone() for name, p in adapters.parameters(model).items()}
    model(torch.randn(5, 24)).square().mean().backward()
    torch.optim.SGD(adapters.parameters(model).values(), lr=0.1).step()
    assert all(not torch.equal(p, before[name]) for name, p in adapters.parameters(model).items())
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters() if name in kept)


@pytest.mark.parametrize("method", adapters.METHODS)
def test_ranks_and_alphas_by_pattern(method: str) -> None:
    model = Small()
    patterns: dict[str, Any] = {"ranks": {r"inner\.": 2, "one|three": 3}, "alphas": {"^linear$": 0.5}}
    inject(model, method=method, **patterns)
    # The first pattern that is found counts.
    assert sizes(model) == {"linear": (4, 0.5), "wide": (4, 4.0), "one": (3, 4.0), "inner.three": (2, 4.0)}


def test_alpha_follows_the_rank_of_each_layer_if_none_is_given() -> None:
    model = Small()
    inject(model, alpha=None, ranks={"three": 2})
    assert sizes(model) == {"linear": (4, 4.0), "wide": (4, 4.0), "one": (4, 4.0), "inner.three": (2, 2.0)}


def test_a_rank_is_that_of_its_own_layer_not_of_one_whose_name_ends_like_it() -> None:
    model = nn.Module()
    model.fc, model.inner = nn.Linear(8, 8), nn.Sequential()
    model.inner.add_module("fc", nn.Linear(8, 8))
    inject(model, ranks={"^fc": 2, "inner": 3})
    assert {name: rank for name, (rank, _) in sizes(model).items()} == {"fc": 2, "inner.fc": 3}


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({"ranks": {"four": 2}}, ["lora_ranks: 'four' is in the name of none of the 4 layers to be trained"]),
        ({"alphas": {"(": 2}}, ["lora_alphas: '(' is no regular expression: missing ), unterminated subpattern"]),
        ({"method": "lohra"}, ["lora_method: lohra: expected lora, rslora, dora, lokr, loha"]),
        ({"method": "oft"}, ["lora_method: oft: ComfyUI turns a layer's output by what an OFT file holds"]),
    ],
)
def test_what_cannot_be_asked_for(settings: dict[str, Any], problems: list[str]) -> None:
    model = Small()
    with pytest.raises(ConfigError) as error:
        inject(model, **settings)
    assert len(error.value.problems) == len(problems)
    assert all(told.startswith(expected) for told, expected in zip(error.value.problems, problems, strict=True))
    assert not list(adapters.layers(model))


@pytest.mark.parametrize("method", adapters.METHODS)
def test_dropout_acts_in_training_alone(method: str) -> None:
    model = Small()
    inject(model, method=method, dropout=0.5)
    move(model)
    assert torch.equal(predict(model.eval()), predict(model))
    torch.manual_seed(0)
    dropped = predict(model.train())
    torch.manual_seed(0)
    assert torch.equal(predict(model), dropped)  # a function of torch's global generator
    assert not torch.allclose(dropped, predict(model.eval()), atol=1e-3)
    model = Small()
    inject(model, method=method)
    move(model)
    assert torch.equal(predict(model.train()), predict(model.eval()))


@pytest.mark.parametrize(("exact", "least", "most"), [(True, 0.0, 0.01), (False, 0.1, 1.0)])
def test_a_dora_in_bf16_is_the_one_that_is_exported(exact: bool, least: float, most: float) -> None:
    """PEFT by itself takes a DoRA's norms in bf16; then a fifth of a small change is not what a file would hold."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(320, 320, bias=False)).requires_grad_(False)
    model[0].weight.data = torch.randn(320, 320, generator=generator) * 0.03
    model.to(torch.bfloat16)
    inject(model, method="dora", rank=8)
    (layer,) = adapters.layers(model)
    if not exact:
        del layer.layer.lora_magnitude_vector["default"].get_weight_norm
        layer.parts["magnitude"].data = layer.weight.norm(dim=1).float()
    layer.up.data += 0.003 * torch.randn(layer.up.shape, generator=generator)
    eye = torch.eye(320, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # What PEFT adds to the base layer's output, before the sum is rounded to bf16.
        seen = layer.layer.lora_magnitude_vector["default"](
            eye,
            lora_A=layer.layer.lora_A["default"],
            lora_B=layer.layer.lora_B["default"],
            scaling=layer.layer.scaling["default"],
            base_layer=layer.layer.base_layer,
            base_result=layer.layer.base_layer(eye),
        )
    change = layer.change()
    assert least <= float((seen.T - change).norm() / change.norm()) < most
