"""Weights that lie in RAM: the same training to the bit, copied ahead in the order in which they are needed."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.adapters.small import Small, adapted
from tests.trainer.frozen.small import LOW, METHODS, equal, pair, step, store
from trainer import frozen
from trainer.frozen import paging
from trainer.frozen.paging import Arena, Pager

CPU = torch.device("cpu")


class Device:
    """A device that logs what is copied to it: ``start`` and ``finish`` by the address in RAM, and what lies on it."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.log: list[tuple[str, int]] = []
        self._there: list[weakref.ref[torch.Tensor]] = []
        self._of: dict[int, int] = {}
        self.unfinished: set[int] = set()

    def start(self, tensor: torch.Tensor) -> torch.Tensor:
        self.log.append(("start", tensor.data_ptr()))
        made = tensor.clone()
        self._there.append(weakref.ref(made))
        self._of[id(made)] = tensor.data_ptr()
        self.unfinished.add(id(made))
        weakref.finalize(made, self._gone, id(made))
        return made

    def finish(self, copy: torch.Tensor) -> torch.Tensor:
        self.log.append(("finish", self._of[id(copy)]))
        self.unfinished.discard(id(copy))
        return copy

    def bytes(self) -> int:
        return sum(tensor.nbytes for ref in self._there if (tensor := ref()) is not None)

    def started(self) -> list[int]:
        return [place for what, place in self.log if what == "start"]

    def _gone(self, key: int) -> None:
        assert key not in self.unfinished, "a copy was let go of while it was being made"


def weights(sizes: Iterable[int]) -> list[torch.Tensor]:
    return [torch.full((size,), float(number)) for number, size in enumerate(sizes)]


def run(pager: Pager, device: Device, order: Sequence[torch.Tensor]) -> int:
    """A pass that needs weights in an order. Returns how many of them were not on their way when they were needed."""
    pager.begin()
    waited = 0
    for stored in order:
        before = len(device.log)
        assert torch.equal(pager.fetch(stored), stored)
        waited += ("start", stored.data_ptr()) in device.log[before:]
    return waited


def there_and_back(held: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [*held, *reversed(held)]


def test_what_comes_next_is_copied_ahead_in_the_order_that_was_seen() -> None:
    held, device = weights([10] * 6), Device()
    pager = Pager(CPU, 3 * 40, lambda _: device)
    order = there_and_back(held)
    assert run(pager, device, order) == 11  # what is in use at the turn is there
    assert device.started() == [t.data_ptr() for t in (*held, *held[-2::-1])]
    assert run(pager, device, order) == 0
    device.log.clear()
    assert run(pager, device, order) == 0
    # The first three lie there from the end of the pass before, and of the last four three at the turn.
    assert device.started() == [t.data_ptr() for t in (*held[3:], *held[2::-1])]


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    passes=st.lists(st.lists(st.integers(0, 7), max_size=20), min_size=1, max_size=5),
    repeats=st.integers(1, 3),
    keep=st.integers(0, 600),
)
def test_any_order_gives_the_weights_and_never_more_of_them_than_allowed(
    sizes: list[int], passes: list[list[int]], repeats: int, keep: int
) -> None:
    held, device = weights(sizes), Device()
    pager = Pager(CPU, keep, lambda _: device)
    for order in passes:
        for _ in range(repeats):
            pager.begin()
            for number in order:
                stored = held[number % len(held)]
                assert torch.equal(pager.fetch(stored), stored)
                assert device.bytes() <= keep + stored.nbytes
                assert torch.equal(pager.glance(held[0]), held[0])


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8), keep=st.integers(80, 600))
def test_in_a_pass_that_was_seen_before_everything_is_on_its_way(sizes: list[int], keep: int) -> None:
    """Room for one more is enough. Validation has an order of its own, and does not disturb that of training."""
    held, device = weights(sizes), Device()
    pager = Pager(CPU, keep, lambda _: device)
    for time in range(3):
        trained = run(pager, device, there_and_back(held)) + run(pager, device, there_and_back(held))
        with torch.no_grad():
            validated = run(pager, device, held) + run(pager, device, held)
        assert (trained, validated) == ((2 * len(held) - 1, len(held)) if time == 0 else (0, 0))


def test_another_order_is_learnt_anew() -> None:
    held, device = weights([10] * 6), Device()
    pager = Pager(CPU, 2 * 40, lambda _: device)
    for order in (held, held[::2], [*held[:3], *held[:2], *held]):
        assert [run(pager, device, order) > 0 for _ in range(3)] == [True, False, False]


def test_where_there_is_room_for_all_nothing_is_copied_twice() -> None:
    held, device = weights([10] * 5), Device()
    pager = Pager(CPU, 5 * 40, lambda _: device)
    run(pager, device, there_and_back(held))
    device.log.clear()
    for _ in range(4):
        assert run(pager, device, there_and_back(held)) == 0
    assert sorted(device.started()) == sorted(t.data_ptr() for t in held)


KEPT = (0, 5000, 10**9)


@pytest.mark.parametrize("keep", KEPT)
@pytest.mark.parametrize("kind", ["plain", *LOW])
@pytest.mark.parametrize("method", METHODS)
def test_training_is_the_same_to_the_bit(method: str, kind: str, keep: int) -> None:
    model, twin = pair(method, kind)
    devices: list[Device] = []

    def copier(device: torch.device) -> Device:
        devices.append(Device(device))
        return devices[-1]

    frozen.page(model, "cpu", keep, smallest=0, copier=copier)
    for seed in range(3):
        for checkpointed in (False, True, True):
            mine = step(model, checkpointed=checkpointed, seed=seed)
            assert equal(mine, step(twin, checkpointed=checkpointed, seed=seed))
            assert devices[0].started()
            assert devices[0].bytes() <= keep + max(layer.held[0].nbytes for layer in frozen_layers(model))


def frozen_layers(model: torch.nn.Module) -> list[frozen.Frozen]:
    return [layer for layer in model.modules() if isinstance(layer, frozen.Frozen)]


def test_on_the_cpu_itself_nothing_is_copied() -> None:
    model = adapted("lora")
    plain = {t.data_ptr() for t in model.parameters()}
    store(model, "plain", keep_bytes=0)
    assert {layer.fetch(torch.float32).data_ptr() for layer in frozen_layers(model)} < plain


@pytest.mark.parametrize("kind", ["plain", *LOW])
@pytest.mark.parametrize("keep", [None, 0, 10**9])
def test_a_copy_of_a_model_trains_as_it_does(kind: str, keep: int | None) -> None:
    model = store(adapted("dora"), kind, keep)
    wanted = step(model)
    other = copy.deepcopy(model)
    for _ in range(2):
        assert equal(step(other), wanted)
        assert equal(step(model), wanted)


@pytest.mark.parametrize("keep", [None, 0, 10**9])
@pytest.mark.parametrize("kind", ["plain", *LOW])
def test_moving_a_model_moves_what_is_stored_and_changes_no_number_of_it(kind: str, keep: int | None) -> None:
    """Away to a device without memory is as far as a test without a GPU can see a move."""
    model = store(Small(), kind, keep)
    before = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, frozen.Frozen)}
    size = frozen.bytes_of(model)
    assert model.to(torch.bfloat16).to("cpu") is model
    for name, layer in model.named_modules():
        if isinstance(layer, frozen.Frozen):
            assert layer.weight.dtype == torch.bfloat16
            assert torch.equal(layer.weight, before[name].bfloat16())
    if kind != "plain":
        after = frozen.bytes_of(model)
        biases = sum(layer.bias.nbytes for layer in frozen_layers(model) if layer.bias is not None)
        assert (after.ram, after.frozen) == (size.ram, size.frozen - biases)
    model.to("meta")
    for layer in frozen_layers(model):
        assert layer.weight.device.type == "meta"
        assert layer.held[0].device.type == ("cpu" if layer.pager else "meta")


def test_an_arena_holds_weights_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "CHUNK", 1024)
    arena = Arena(pinned=True)  # where nothing can be pinned, in ordinary RAM
    given = [*weights([3, 100, 7, 1000, 1, 50]), torch.ones(5, 3, dtype=torch.int8), torch.ones(9).bfloat16()]
    held = [arena.put(tensor) for tensor in given]
    for mine, theirs in zip(held, given, strict=True):
        assert torch.equal(mine, theirs)
        assert (mine.dtype, mine.data_ptr() % 64) == (theirs.dtype, 0)
    places = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    assert sorted(places.values()) == [1024, 1024, 4000]
