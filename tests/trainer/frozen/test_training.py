"""Toy denoisers of the families, trained on a stored base from end to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.trainer.frozen.small import LOW, copy_weights, store
from tests.trainer.frozen.toys import Tensors, Toy, toy
from trainer import adapters, families, frozen

STEPS = 3


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(families.get(request.param), tmp_path_factory.mktemp("toy"))


def train(case: Toy, model: nn.Module) -> tuple[list[float], Tensors]:
    """The losses of a short training, a look at other images between two steps, and the LoRA that comes of it."""
    parameters = list(adapters.parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for seed in range(STEPS):
        losses.append(float(case.step(model, seed)[0]))
        optimizer.step()
        with torch.no_grad():
            losses.append(float(case.loss(model, 99)))
    return losses, adapters.exported(model, case.family.export_key)


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_ram(model: nn.Module) -> None:
    frozen.checkpointing(model, in_ram=True)


def paged(model: nn.Module) -> None:
    frozen.page(model, "cpu", 100_000, smallest=0)


WAYS: dict[str, tuple[Callable[[nn.Module], None], ...]] = {
    "checkpointing": (frozen.checkpointing,),
    "activations in RAM": (in_ram,),
    "paged": (paged,),
    "all": (paged, in_ram),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_lora_is_the_same_to_the_bit(case: Toy, way: str) -> None:
    plain = train(case, case.model())
    model = case.model()
    for change in WAYS[way]:
        change(model)
    losses, lora = train(case, model)
    assert losses == plain[0]
    assert same(lora, plain[1])


@pytest.mark.parametrize("kind", LOW)
def test_a_base_in_few_bits_trains_as_what_it_stands_for_and_much_as_the_original(case: Toy, kind: str) -> None:
    plain = train(case, case.model())
    model, twin = store(case.model(), kind), case.model()
    copy_weights(model, twin)
    losses, lora = train(case, twin)
    for change in ((), (paged, in_ram)):
        again = store(case.model(), kind)
        for do in change:
            do(again)
        found = train(case, again)
        assert found[0] == losses
        assert same(found[1], lora)
    # Random weights are as hard to store as any; a toy's prediction is off by about as much as its weights.
    assert losses == pytest.approx(plain[0], rel={"int8": 0.01, "fp8": 0.02, "nf4": 0.1}[kind])
    assert losses != plain[0]


def test_the_room_that_a_base_takes(case: Toy) -> None:
    plain = frozen.bytes_of(case.model())
    found = {kind: frozen.bytes_of(store(case.model(), kind)) for kind in LOW}
    assert plain.frozen / 4 < found["fp8"].frozen < found["int8"].frozen < plain.frozen / 3
    assert found["nf4"].frozen < found["fp8"].frozen
    model = case.model()
    paged(model)
    after = frozen.bytes_of(model)
    assert after.frozen + after.ram == plain.frozen
    assert after.frozen < plain.frozen / 20
