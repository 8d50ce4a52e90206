"""A stored base trains as one that holds the weights which the storage stands for, and keeps none of them."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from tests.trainer.adapters.small import Small, adapted, export_key, is_target, move, predict, relative
from tests.trainer.frozen.small import LOW, METHODS, base_in, copy_weights, equal, pair, step, store
from trainer import adapters, frozen

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", LOW)
def test_gradients_are_those_of_the_weights_that_it_stands_for(
    kind: str, method: str, checkpointed: bool, dtype: torch.dtype
) -> None:
    model, twin = pair(method, kind, dtype)
    found, wanted = step(model, dtype, checkpointed=checkpointed), step(twin, dtype, checkpointed=checkpointed)
    assert equal(found, wanted)
    assert all(tensor.abs().sum() > 0 for tensor in wanted[1].values())
    original = step(base_in(adapted(method), dtype), dtype)
    assert relative(found[0], original[0]) < 0.2
    assert not equal(found, original)


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("method", METHODS)
def test_adapters_put_on_afterwards_are_the_same(method: str, kind: str) -> None:
    model, twin = store(Small(), kind), Small()
    copy_weights(model, twin)
    for one in (model, twin):
        adapters.inject(one, is_target, rank=4, alpha=4, seed=0, method=method.partition(",")[0])
        move(one)
    assert equal(step(model), step(twin))


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("case", [*METHODS, "rslora", "lokr, both split"])
def test_the_adapters_are_read_as_on_a_plain_base(case: str, kind: str) -> None:
    model, twin = pair(case, kind)
    for mine, plain in zip(adapters.layers(model), adapters.layers(twin), strict=True):
        assert torch.equal(mine.weight, plain.weight)
        assert torch.equal(mine.change(), plain.change())
    file, wanted = (adapters.exported(one, export_key) for one in (model, twin))
    assert all(torch.equal(file[name], wanted[name]) for name in wanted)
    for value in (0.0, 0.5, 1.0):
        with adapters.strength(model, value), adapters.strength(twin, value):
            assert torch.equal(predict(model), predict(twin))
    with adapters.disabled(model), adapters.disabled(twin):
        assert torch.equal(predict(model), predict(twin))


def saved_by(model: nn.Module, dtype: torch.dtype) -> list[tuple[int, ...]]:
    """Shapes of what the graph of a step keeps, beside parameters."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        step(model, dtype)
    return sorted(tuple(tensor.shape) for tensor in kept.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["plain", *LOW])
@pytest.mark.parametrize("method", ["lora", "dora", "lokr, both full"])
def test_the_graph_keeps_no_weight_and_nothing_that_a_plain_base_would_not_keep(
    method: str, kind: str, dtype: torch.dtype
) -> None:
    model, twin = pair(method, kind, dtype)
    if kind == "plain":
        store(model, kind, keep_bytes=0)
    weights = {tuple(layer.weight.shape) for layer in adapters.layers(twin)}
    mine, plain = saved_by(model, dtype), saved_by(twin, dtype)
    base = {shape for shape in mine if shape in weights}
    # A LoKr's own change has a weight's shape.
    assert not base or method.startswith("lokr")
    for shape in set(mine):
        assert mine.count(shape) <= plain.count(shape), shape


@pytest.mark.parametrize("kind", LOW)
def test_no_two_weights_are_there_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = store(adapted("lora"), kind)
    made: list[weakref.ref[torch.Tensor]] = []
    fetch = frozen.Frozen.fetch

    def watched(self: frozen.Frozen, dtype: torch.dtype) -> torch.Tensor:
        assert all(weight() is None for weight in made)
        weight = fetch(self, dtype)
        made.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(frozen.Frozen, "fetch", watched)
    step(model)
    assert len(made) == 8  # four layers, there and back


def test_what_is_trained_subclassed_or_small_stays_as_it_is() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Module()
    model.plain, model.small, model.other = nn.Linear(300, 300), nn.Linear(200, 200), Other(300, 300)
    model.trained, model.norm = nn.Linear(300, 300), nn.GroupNorm(4, 1024)
    model.mirrored = nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect")
    model.requires_grad_(False)
    model.trained.requires_grad_(True)
    size = frozen.bytes_as(model, "fp8", torch.float32)
    frozen.quantise(model, "fp8", "cpu")
    assert {name for name, layer in model.named_modules() if isinstance(layer, frozen.Frozen)} == {"plain"}
    assert frozen.bytes_of(model) == frozen.Bytes(size, 300 * 301 * 4, 0)


def test_a_layer_that_a_model_knows_by_two_names_stays_one() -> None:
    model = nn.Module()
    model.one = model.two = nn.Linear(300, 300).requires_grad_(False)
    frozen.quantise(model, "fp8", "cpu")
    assert model.one is model.two
    assert isinstance(model.one, frozen.Frozen)


def test_what_is_stored_already_is_not_stored_again() -> None:
    model = store(Small(), "fp8")
    with pytest.raises(ValueError, match="load it anew"):
        frozen.quantise(model, "nf4", "cpu", smallest=0)
    frozen.page(model, "cpu", 0, smallest=0)
    with pytest.raises(ValueError, match="already"):
        frozen.page(model, "cpu", 0, smallest=0)


@pytest.mark.parametrize("keep", [None, 0])
@pytest.mark.parametrize("kind", ["plain", *LOW])
def test_what_a_model_holds_is_told_before_and_after(kind: str, keep: int | None) -> None:
    model = adapted("lora")
    trained = sum(p.nbytes for p in adapters.parameters(model).values())
    numbers = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    large = {layer: layer.weight.numel() for layer in adapters.layers(model)}
    store(model, kind, keep)
    found = frozen.bytes_of(model)
    assert found.trained == trained
    assert frozen.numbers_of(model) == numbers
    bits = {"plain": 32, "int8": 8, "fp8": 8, "nf4": 4}[kind]
    # The scales stay on the device; in nf4 convolutions are in int8.
    large_bits = sum(n * (8 if kind == "nf4" and layer.weight.ndim == 4 else bits) for layer, n in large.items())
    assert found.ram == (0 if keep is None else large_bits // 8)
    if kind == "plain":
        assert found.frozen + found.ram == 4 * numbers
