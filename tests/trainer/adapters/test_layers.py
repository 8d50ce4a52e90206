"""LoRA layers in the toy UNet: what is adapted, what is trained, and what a strength does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import adapters, families
from trainer.adapters.layers import peft_layers
from trainer.errors import BaseModelError, CheckpointError

FAMILY = families.get("sd15")


@pytest.fixture
def unet(tiny_base: Path) -> nn.Module:
    return FAMILY.load_model(tiny_base, torch.float32)


def inject(model: nn.Module, which: str = "linear", *, rank: int = 4, alpha: float = 4.0, seed: int = 0) -> None:
    adapters.inject(model, lambda n, m: FAMILY.is_target(n, m, which), rank=rank, alpha=alpha, seed=seed)


def fill_up(model: nn.Module, seed: int = 1) -> None:
    """Adapters that change something: ``up`` is zero at first."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapters.layers(model):
        layer.up.data.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)


def predict(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noisy, hidden = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 32, generator=generator)
    with torch.no_grad():
        return FAMILY.predict(model, noisy, torch.tensor([500]), {"hidden": hidden})


@pytest.mark.parametrize("which", ["attention", "linear", "conv"])
def test_exactly_the_targets_are_adapted(unet: nn.Module, which: str) -> None:
    targets = [name for name, module in unet.named_modules() if FAMILY.is_target(name, module, which)]
    weights = {name: unet.get_parameter(f"{name}.weight").shape for name in targets}
    inject(unet, which, rank=3)
    found = list(adapters.layers(unet))
    assert [layer.name for layer in found] == targets
    for layer in found:
        assert layer.rank == 3
        assert layer.change().shape == weights[layer.name]
        assert layer.down.shape == (3, *weights[layer.name][1:])
        assert layer.up.shape == (weights[layer.name][0], 3, *[1] * (len(weights[layer.name]) - 2))


def test_the_three_kinds_of_targets_contain_each_other(tiny_base: Path) -> None:
    found = []
    for which in ("attention", "linear", "conv"):
        model = FAMILY.load_model(tiny_base, torch.float32)
        inject(model, which)
        found.append({layer.name for layer in adapters.layers(model)})
    assert found[0] < found[1] < found[2]


def test_a_fresh_lora_changes_nothing(unet: nn.Module) -> None:
    before = predict(unet)
    inject(unet, "conv")
    assert torch.equal(predict(unet), before)
    assert all(torch.count_nonzero(layer.up) == 0 for layer in adapters.layers(unet))
    assert all(torch.count_nonzero(layer.down) > 0 for layer in adapters.layers(unet))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_only_the_adapters_are_trained_and_they_are_fp32(tiny_base: Path, dtype: torch.dtype) -> None:
    model = FAMILY.load_model(tiny_base, dtype)
    inject(model, "conv")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in trained.values()} == {id(p) for p in adapters.parameters(model).values()}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}


def test_the_start_is_a_function_of_the_seed_and_moves_no_generator(tiny_base: Path) -> None:
    started = []
    for seed in (0, 0, 1):
        model = FAMILY.load_model(tiny_base, torch.float32)
        torch.manual_seed(len(started))
        before = torch.get_rng_state()
        inject(model, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        started.append(torch.cat([p.flatten() for p in adapters.parameters(model).values()]))
    assert torch.equal(started[0], started[1])
    assert not torch.equal(started[0], started[2])


def test_parameters_are_named_by_layer_in_a_stable_order(unet: nn.Module) -> None:
    inject(unet)
    names = list(adapters.parameters(unet))
    layers = [layer.name for layer in adapters.layers(unet)]
    assert names == [f"{layer}.{part}" for layer in layers for part in ("down", "up")]
    assert not any("lora" in name or "base_layer" in name for name in names)


def test_a_step_moves_the_adapters_and_nothing_else(unet: nn.Module) -> None:
    inject(unet, "conv")
    fill_up(unet)
    unet.enable_gradient_checkpointing()  # type: ignore[operator]
    unet.train()
    kept = {name: p.detach().clone() for name, p in unet.named_parameters() if not p.requires_grad}
    parameters = adapters.parameters(unet)
    noisy, hidden = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    FAMILY.predict(unet, noisy, torch.tensor([10, 900]), {"hidden": hidden}).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())
    torch.optim.SGD(parameters.values(), lr=1.0).step()
    assert all(torch.equal(p, kept[name]) for name, p in unet.named_parameters() if name in kept)


def test_a_target_that_matches_nothing_is_refused() -> None:
    with pytest.raises(BaseModelError, match=r"no layer of the base model \(Sequential\) is a LoRA target") as error:
        adapters.inject(nn.Sequential(nn.Linear(2, 2)), lambda n, m: False, rank=4, alpha=4, seed=0)
    assert "choose other lora_targets" in error.value.cure


def test_a_layer_whose_name_ends_like_a_target_s_is_left_alone() -> None:
    """PEFT by itself matches ends of names: a target `fc` would also take `inner.fc`."""
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(2, 2))
    model.add_module("inner", nn.Sequential())
    model.inner.add_module("fc", nn.Linear(2, 2))  # type: ignore[operator]
    adapters.inject(model, lambda n, m: n == "fc", rank=1, alpha=1, seed=0)
    assert [layer.name for layer in adapters.layers(model)] == ["fc"]


@pytest.mark.parametrize("method", adapters.METHODS)
def test_every_method_trains_in_bf16_with_checkpointing(tiny_base: Path, method: str) -> None:
    """The adapters' gradients are fp32 and all there, and those without autocast are near."""
    from peft.helpers import disable_input_dtype_casting

    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model = FAMILY.load_model(tiny_base, dtype)
        adapters.inject(
            model, lambda n, m: FAMILY.is_target(n, m, "conv"), rank=4, alpha=4.0, seed=0, method=method
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        for parameter in adapters.parameters(model).values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.enable_gradient_checkpointing()  # type: ignore[operator]
        model.train()
        noisy, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 32, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, dtype is torch.bfloat16), disable_input_dtype_casting(model):
            found = FAMILY.predict(model, noisy, torch.tensor([10, 900]), {"hidden": hidden})
            found.float().square().mean().backward()
        parts = [p.grad for p in adapters.parameters(model).values()]
        assert all(g is not None and g.dtype == torch.float32 and g.abs().sum() > 0 for g in parts)
        gradients.append(torch.cat([g.flatten() for g in parts if g is not None]))
    assert (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()


# --- the change, and its strength


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (4, 1.0), (2, 6.0)])
def test_the_change_is_what_peft_merges(unet: nn.Module, rank: int, alpha: float) -> None:
    inject(unet, "conv", rank=rank, alpha=alpha)
    fill_up(unet)
    kinds = set()
    for name, module in peft_layers(unet):
        delta = module.get_delta_weight("default")  # type: ignore[attr-defined]
        layer = next(found for found in adapters.layers(unet) if found.name == name)
        assert layer.alpha == alpha
        assert torch.allclose(layer.change(), delta, rtol=1e-5, atol=1e-7 * delta.abs().max().item())
        kinds.add(tuple(delta.shape[2:]))
    assert kinds == {(), (1, 1), (3, 3)}


def test_a_strength_scales_the_change_and_is_taken_back(unet: nn.Module) -> None:
    base = predict(unet)
    inject(unet, "conv")
    fill_up(unet)
    trained = predict(unet)
    assert not torch.allclose(trained, base, atol=1e-3)
    with adapters.strength(unet, 0.0):
        assert torch.allclose(predict(unet), base, atol=1e-6)
    with adapters.strength(unet, 0.5):
        halved = predict(unet)
        with adapters.strength(unet, 2.0):
            assert torch.allclose(predict(unet), trained, atol=1e-5)
    assert torch.equal(predict(unet), trained)
    for layer in adapters.layers(unet):
        layer.up.data.mul_(0.5)
    assert torch.allclose(predict(unet), halved, atol=1e-5)


def test_a_strength_is_taken_back_after_an_error(unet: nn.Module) -> None:
    inject(unet)
    fill_up(unet)
    trained = predict(unet)
    with pytest.raises(KeyError), adapters.strength(unet, 0.25):
        raise KeyError
    assert torch.equal(predict(unet), trained)


# --- put back


def test_adapters_are_put_back_exactly(tiny_base: Path, unet: nn.Module) -> None:
    inject(unet, "conv")
    fill_up(unet)
    saved = {name: p.detach().clone() for name, p in adapters.parameters(unet).items()}
    other = FAMILY.load_model(tiny_base, torch.float32)
    inject(other, "conv", seed=9)
    adapters.load(other, saved)
    assert torch.equal(predict(other), predict(unet))
    saved[next(iter(saved))].zero_()
    assert torch.equal(predict(other), predict(unet))  # a copy


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.popitem(),
        lambda tensors: tensors.update(more=torch.ones(1)),
        lambda tensors: tensors.update({next(iter(tensors)): torch.ones(1, 1)}),
    ],
    ids=["one less", "one more", "another shape"],
)
def test_another_shape_of_adapter_is_refused_whole(
    unet: nn.Module, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    inject(unet)
    before = {name: p.detach().clone() for name, p in adapters.parameters(unet).items()}
    tensors = {name: torch.ones_like(p) for name, p in before.items()}
    change(tensors)
    with pytest.raises(CheckpointError, match="adapter is of another shape"):
        adapters.load(unet, tensors)
    assert all(torch.equal(p, before[name]) for name, p in adapters.parameters(unet).items())
