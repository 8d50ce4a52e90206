"""Checkpointing: the same gradients; what goes into the blocks is kept, in RAM if that is wished, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from tests.trainer.frozen.small import equal
from tests.trainer.frozen.toys import Toy, toy
from trainer import adapters, families, frozen
from trainer.frozen import activations


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toy(families.get(request.param), tmp_path_factory.mktemp("toy"))


def checkpointed(case: Toy, in_ram: bool) -> nn.Module:
    model = case.model()
    frozen.checkpointing(model, in_ram)
    return model


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("which", ["linear", "conv"])
def test_gradients_are_the_same_to_the_bit(case: Toy, which: str, method: str) -> None:
    if which not in case.family.targets:
        pytest.skip("the family has no such targets")
    model = case.model(which=which, method=method)
    wanted = [case.step(model, seed) for seed in range(2)]
    for in_ram in (False, True):
        frozen.checkpointing(model, in_ram)
        assert all(equal(case.step(model, seed), wanted[seed]) for seed in range(2))


@pytest.mark.parametrize("method", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("in_ram", [False, True])
def test_what_is_computed_again_drops_out_the_same(case: Toy, method: str, in_ram: bool) -> None:
    model = case.model(method=method)
    for layer in adapters.layers(model):
        layer = layer.layer
        if method == "lora":
            layer.lora_dropout["default"] = nn.Dropout(0.5)
        else:
            layer.rank_dropout["default"] = 0.5
    torch.manual_seed(0)
    wanted = case.step(model)
    frozen.checkpointing(model, in_ram)
    torch.manual_seed(0)
    assert equal(case.step(model), wanted)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The checkpointed ones: of the middle block diffusers leaves out the first."""
    kinds = {"ResnetBlock2D", "BasicTransformerBlock"}
    named = {name: block for name, block in model.named_modules() if type(block).__name__ in kinds}
    del named["mid_block.resnets.0"]
    return list(named.values())


@pytest.mark.parametrize("in_ram", [False, True])
def test_a_block_is_computed_once_more_in_backward(case: Toy, in_ram: bool) -> None:
    model, calls = checkpointed(case, in_ram), Counter[nn.Module]()
    for block in blocks_of(model):
        block.register_forward_pre_hook(lambda module, _args: calls.update([module]))
    case.step(model)
    # Blocks before the first adapter have nothing to compute again.
    assert set(calls.values()) <= {1, 2}
    assert sum(count == 2 for count in calls.values()) >= len(calls) - 3


def test_what_goes_into_a_block_leaves_the_device_and_nothing_else(case: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    to_ram, moved = activations._to_ram, list[int]()

    def counted(tensor: torch.Tensor) -> tuple[torch.device, torch.Tensor]:
        moved.append(tensor.nbytes)
        return to_ram(tensor)

    monkeypatch.setattr(activations, "_to_ram", counted)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    def forward(in_ram: bool) -> tuple[list[bool], int]:
        """Which of the inputs that gradients flow through are there when the loss is known; what the graph keeps."""
        model, inputs = checkpointed(case, in_ram), list[StorageWeakRef]()

        def note(_: nn.Module, args: tuple[object, ...]) -> None:
            tensors = (x for x in args if isinstance(x, torch.Tensor) and x.requires_grad)
            inputs.extend(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors)

        for block in blocks_of(model):
            block.register_forward_pre_hook(note)
        kept.clear()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = case.loss(model)
        assert loss.requires_grad
        return [not storage.expired() for storage in inputs], sum(kept)

    here, plain = forward(in_ram=False)
    assert here
    assert all(here)
    assert not moved
    there, less = forward(in_ram=True)
    assert not any(there)
    assert len(there) == len(moved) == len(here)
    assert plain - less >= sum(moved)  # and what all blocks share is not kept for each of them
