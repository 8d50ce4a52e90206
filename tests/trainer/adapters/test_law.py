"""The export law without ComfyUI: for every method, kind of layer and rank, what a file makes of a weight at a strength
is what PEFT merges there. The file's arithmetic is written down here once more, from the formats' own definitions.
"""

from __future__ import annotations

import pytest
import torch

from tests.trainer.adapters.small import CASES, Small, Tensors, adapted, export_key, merged, predict, relative
from trainer import adapters, export, lorafile

STRENGTHS = (1.0, 0.8, -0.5)


def patched(weight: torch.Tensor, file: Tensors, key: str, strength: float) -> torch.Tensor:
    """A weight as a reader of the file makes it; by sums over indices, not by the code's matrix products."""
    weight = weight.double()
    part = {name.removeprefix(f"{key}."): t.double() for name, t in file.items() if name.startswith(f"{key}.")}
    alpha, out = float(part["alpha"]), weight.shape[0]
    if "lora_up.weight" in part:
        up, down = part["lora_up.weight"].flatten(1), part["lora_down.weight"]
        change = torch.einsum("or,r...->o...", up, down) * (alpha / down.shape[0])
        if "dora_scale" in part:
            assert part["dora_scale"].shape == (out, *[1] * (weight.ndim - 1))
            norm = weight.flatten(1).square().sum(1).sqrt().reshape(part["dora_scale"].shape)
            return weight + strength * ((weight + change) * part["dora_scale"] / norm - weight)
    elif "hada_w1_a" in part:
        first = torch.einsum("or,ri->oi", part["hada_w1_a"], part["hada_w1_b"])
        second = torch.einsum("or,ri->oi", part["hada_w2_a"], part["hada_w2_b"])
        change = (first * second).reshape(weight.shape) * (alpha / part["hada_w1_b"].shape[0])
    else:
        rank = 0
        for factor in ("lokr_w1", "lokr_w2"):
            if factor not in part:
                rank = part[f"{factor}_b"].shape[0]
                part[factor] = torch.einsum("or,ri->oi", part[f"{factor}_a"], part[f"{factor}_b"])
        # A product of two is [out, in * kh * kw], a full one has the kernel's sides.
        first = part["lokr_w1"]
        second = part["lokr_w2"].reshape(part["lokr_w2"].shape[0], weight.shape[1] // first.shape[1], -1)
        change = torch.einsum("ab,cdk->acbdk", first, second).reshape(weight.shape) * (alpha / rank if rank else 1.0)
    return weight + strength * change


@pytest.mark.parametrize("case", CASES)
def test_a_file_makes_the_weights_that_peft_merges(case: str) -> None:
    model, base = adapted(case), Small()
    file = adapters.exported(model, export_key)
    for strength in STRENGTHS:
        wanted = merged(model, strength)
        assert wanted.keys() == {"linear", "wide", "one", "inner.three"}
        for name, weight in wanted.items():
            plain = base.get_parameter(f"{name}.weight")
            found = patched(plain, file, export_key(name), strength)
            assert relative(found, weight) < 1e-5, (name, strength)
            assert relative(found - plain, weight - plain) < 1e-5, (name, strength)
            assert relative(weight, plain) > 1e-2


def test_the_cases_hold_what_they_say() -> None:
    """Every form of LoKr, and layers of different rank."""
    held = {case: {name.partition(".")[2] for name in adapters.exported(adapted(case), export_key)} for case in CASES}
    full = adapters.exported(adapted("lokr, both full"), export_key)
    # LyCORIS divides alpha by a rank that a file of full matrices does not show: by itself.
    assert {float(tensor) for name, tensor in full.items() if name.endswith("alpha")} == {64.0, 3.0}
    split = {"lokr_w2_a", "lokr_w2_b"}
    assert held["lokr, both full"] == {"lokr_w1", "lokr_w2", "alpha"}
    assert held["lokr, second split"] >= {"lokr_w1", "alpha"} | split
    assert {"lokr_w1_a", "lokr_w1_b", "lokr_w2"} <= held["lokr, first split"]
    assert {"lokr_w1_a", "lokr_w1_b"} | split <= held["lokr, both split"]
    assert {layer.rank for layer in adapters.layers(adapted("loha"))} == {3, 4}


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_at_a_strength_is_that_of_the_merged_weights(case: str) -> None:
    model = adapted(case)
    for strength in (*STRENGTHS, 0.0):
        other = Small()
        for name, weight in merged(model, strength).items():
            other.get_parameter(f"{name}.weight").data.copy_(weight)
        with adapters.strength(model, strength):
            assert relative(predict(model), predict(other)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_change_and_its_norm_are_those_of_the_merged_weights(case: str) -> None:
    model, base = adapted(case), Small()
    wanted = {name: w - base.get_parameter(f"{name}.weight").double() for name, w in merged(model, 1.0).items()}
    for layer in adapters.layers(model):
        assert layer.change().shape == wanted[layer.name].shape
        assert relative(layer.change(), wanted[layer.name]) < 1e-4
    file = adapters.exported(model, export_key)
    if case != "dora":
        total = sum(float(change.square().sum()) for change in wanted.values()) ** 0.5
        assert export.change_norm(file) == pytest.approx(total, rel=1e-4)
    for layer in lorafile.parse(file).values():
        assert layer.norm() == pytest.approx(float(layer.change().norm()), rel=1e-9)


def test_the_norm_of_a_dora_is_that_of_its_low_rank_part() -> None:
    file = adapters.exported(adapted("dora"), export_key)
    plain = {name: tensor for name, tensor in file.items() if "dora_scale" not in name}
    assert export.change_norm(file) == pytest.approx(export.change_norm(plain), rel=1e-12)
    assert export.change_norm(adapters.exported(adapted("dora", fresh=True), export_key)) == 0


@pytest.mark.parametrize("case", CASES)
def test_what_was_not_trained_is_no_file(case: str, tmp_path) -> None:
    file = adapters.exported(adapted(case, fresh=True), export_key)
    with pytest.raises(export.ExportError) as error:
        export.write(tmp_path / "x.safetensors", file, {})
    assert error.value.message == "the LoRA changes nothing: the change of every weight is zero"


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_a_function_of_the_adapters(case: str) -> None:
    first, second = (adapters.exported(adapted(case), export_key) for _ in range(2))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    assert all(tensor.is_contiguous() for tensor in first.values())


def test_a_row_of_zeros_under_a_dora_keeps_the_law() -> None:
    """PEFT by itself makes 0 / 0 of it."""
    model = Small()
    model.linear.weight.data[3] = 0
    base = {name: p.clone() for name, p in model.named_parameters()}
    adapters.inject(model, lambda n, m: n == "linear", rank=2, alpha=2.0, seed=0, method="dora")
    assert torch.isfinite(predict(model)).all()
    (layer,) = adapters.layers(model)
    for part in layer.parts.values():
        part.data += 0.1
    product = layer.layer.get_delta_weight("default").detach()[3]
    wanted = layer.parts["magnitude"].detach()[3] * product / product.norm()
    file = adapters.exported(model, export_key)
    # ComfyUI adds an epsilon to the norm of the weight's row, which is all that there is here.
    change = file["lora_unet_linear.lora_up.weight"] @ file["lora_unet_linear.lora_down.weight"]
    scale = file["lora_unet_linear.dora_scale"] / (base["linear.weight"].norm(dim=1, keepdim=True) + 2**-23)
    assert relative((scale * (base["linear.weight"] + change))[3], wanted) < 1e-5
