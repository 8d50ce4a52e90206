"""LoRA files onto a model: for a preview, and to go on with their training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.adapters.small import CASES, Small, Tensors, adapted, export_key, is_target, move, predict, relative
from trainer import adapters
from trainer.errors import ConfigError, LoraFileError


def same(found: Tensors, wanted: Tensors) -> bool:
    """Equal to rounding: a scale may be in the values or beside them."""
    return found.keys() == wanted.keys() and all(relative(found[n], wanted[n]) < 1e-5 for n in wanted)


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_put_onto_the_base_as_it_was_trained(case: str) -> None:
    model = adapted(case)
    file = adapters.exported(model, export_key)
    other = Small()
    adapters.from_file(other, file, export_key)
    for strength in (1.0, 0.5, 0.0):
        with adapters.strength(model, strength), adapters.strength(other, strength):
            assert relative(predict(other), predict(model)) < 1e-5
    again = Small()
    adapters.from_file(again, adapters.exported(other, export_key), export_key)
    assert relative(predict(again), predict(model)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_from_a_file(case: str) -> None:
    file = adapters.exported(adapted(case), export_key)
    fresh = adapted(case, seed=5, fresh=True)
    names = {name: p.shape for name, p in adapters.parameters(fresh).items()}
    adapters.start_from(fresh, file, export_key)
    assert {name: p.shape for name, p in adapters.parameters(fresh).items()} == names
    assert all(p.requires_grad for p in adapters.parameters(fresh).values())
    assert same(adapters.exported(fresh, export_key), file)
    assert relative(predict(fresh), predict(adapted(case))) < 1e-5


def test_layers_of_different_methods_in_one_file() -> None:
    files: Tensors = {}
    for name, case in (("linear", "dora"), ("wide", "lokr, second split"), ("one", "loha"), ("inner_three", "lora")):
        made = adapters.exported(adapted(case), export_key)
        files |= {key: tensor for key, tensor in made.items() if key.startswith(f"lora_unet_{name}.")}
    model = Small()
    adapters.from_file(model, files, export_key)
    assert [layer.method for layer in adapters.layers(model)] == ["dora", "lokr", "loha", "lora"]
    assert same(adapters.exported(model, export_key), files)


def test_two_parts_of_a_model() -> None:
    file = adapters.exported(adapted("lora"), export_key)
    # SD1.5's text encoder is te in most files, te1 in some.
    file |= {n.replace("lora_unet_", "lora_te1_"): 2 * t for n, t in file.items()}
    unet, text = Small(), Small()
    adapters.from_file({"unet": unet, "text_encoder": text}, file, export_key)
    assert relative(predict(unet), predict(adapted("lora"))) < 1e-5
    assert not torch.allclose(predict(text), predict(unet), atol=1e-3)
    with pytest.raises(LoraFileError) as error:
        adapters.from_file(Small(), file, export_key, "a.safetensors")
    assert error.value.message == (
        "4 of the 8 layers of a.safetensors match nothing in this base model: "
        "lora_te1_inner_three, lora_te1_linear, lora_te1_one and 1 more"
    )
    assert error.value.cure.endswith("for training, set train_text_encoder: true")


def test_a_tucker_decomposed_lora_of_others() -> None:
    generator = torch.Generator().manual_seed(3)
    down, mid, up = (torch.randn(s, generator=generator) for s in ((3, 16, 1, 1), (3, 3, 3, 3), (24, 3, 1, 1)))
    key = "lora_unet_inner_three"
    file = {f"{key}.lora_down.weight": down, f"{key}.lora_mid.weight": mid, f"{key}.lora_up.weight": up}
    model = Small()
    adapters.from_file(model, {**file, f"{key}.alpha": torch.tensor(1.5)}, export_key)
    (layer,) = adapters.layers(model)
    wanted = 0.5 * torch.einsum("om,mnkl,ni->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    assert relative(layer.change(), wanted) < 1e-5


def test_lycoris_in_tucker_form_and_other_factors_of_others() -> None:
    generator = torch.Generator().manual_seed(3)

    def made(**shapes: tuple[int, ...]) -> Tensors:
        return {f"lora_unet_inner_three.{n}": torch.randn(s, generator=generator) for n, s in shapes.items()}

    square = {"t": (2, 2, 3, 3), "a": (2, 24), "b": (2, 16)}
    loha = made(
        hada_t1=square["t"], hada_w1_a=square["a"], hada_w1_b=square["b"],
        hada_t2=square["t"], hada_w2_a=square["a"], hada_w2_b=square["b"], alpha=(),
    )  # fmt: skip
    lokr = made(lokr_w1=(3, 2), lokr_t2=square["t"], lokr_w2_a=(2, 8), lokr_w2_b=(2, 8), alpha=())
    t = {name.partition(".")[2]: tensor for name, tensor in (loha | lokr).items()}

    def tucker(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ijkl,io,jc->ockl", core, a, b)

    first = tucker(t["hada_t1"], t["hada_w1_a"], t["hada_w1_b"])
    wanted = first * tucker(t["hada_t2"], t["hada_w2_a"], t["hada_w2_b"]) * loha["lora_unet_inner_three.alpha"] / 2
    kron = torch.einsum("ab,cdkl->acbdkl", t["lokr_w1"], tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"]))
    kron = kron.reshape(24, 16, 3, 3) * lokr["lora_unet_inner_three.alpha"] / 2
    for file, change in ((loha, wanted), (lokr, kron)):
        model = Small()
        adapters.from_file(model, file, export_key)
        (layer,) = adapters.layers(model)
        assert relative(layer.change(), change) < 1e-5
        assert same(adapters.exported(model, export_key), file)


def test_a_dora_under_pefts_own_names() -> None:
    model = adapted("dora")
    file: Tensors = {}
    for layer in adapters.layers(model):
        name = f"unet.{layer.name}"
        file |= {f"{name}.lora_A.weight": layer.down, f"{name}.lora_B.weight": layer.up}
        file |= {f"{name}.lora_magnitude_vector": layer.parts["magnitude"]}
        file |= {f"{name}.alpha": torch.tensor(layer.alpha)}
    other = Small()
    adapters.from_file(other, {name: tensor.detach() for name, tensor in file.items()}, export_key)
    assert relative(predict(other), predict(model)) < 1e-6


def test_a_dora_of_a_weights_inputs_is_refused() -> None:
    file = adapters.exported(adapted("dora"), export_key)
    file["lora_unet_linear.dora_scale"] = torch.ones(1, 24)
    with pytest.raises(LoraFileError) as error:
        adapters.from_file(Small(), file, export_key, "a.safetensors")
    assert error.value.message == (
        "a.safetensors: the DoRA of lora_unet_linear scales a weight's inputs, not its 32 outputs"
    )


def test_layers_that_match_nothing_are_listed() -> None:
    file = adapters.exported(adapted("lora"), export_key)
    strange = {f"lora_unet_strange_{n}.{part}": file[f"lora_unet_linear.{part}"] for n in range(5) for part in PARTS}
    model = Small()
    with pytest.raises(LoraFileError) as error:
        adapters.from_file(model, file | strange, export_key, "my \u98ce\u683c.safetensors")
    assert error.value.message == (
        "5 of the 9 layers of my \u98ce\u683c.safetensors match nothing in this base model: "
        "lora_unet_strange_0, lora_unet_strange_1, lora_unet_strange_2 and 2 more"
    )
    assert error.value.cure == "choose a LoRA that was trained for a base model of this family"
    assert not list(adapters.layers(model))


PARTS = ("lora_down.weight", "lora_up.weight", "alpha")


def test_a_layer_of_another_shape_is_refused() -> None:
    file = adapters.exported(adapted("lora"), export_key)
    file["lora_unet_linear.lora_down.weight"] = torch.ones(4, 25)
    with pytest.raises(LoraFileError) as error:
        adapters.from_file(Small(), file, export_key, "a.safetensors")
    assert error.value.message == (
        "a.safetensors: lora_unet_linear changes a weight of 32 x 25, but the base model's has 32 x 24"
    )


@pytest.mark.parametrize(
    ("case", "changes", "problem"),
    [
        ("lora", {"rank": 8, "ranks": {}}, "lora_ranks: a.safetensors has ranks that differ by layer (3, 4): name the"),
        ("lora", {"ranks": {"three": 5}}, "lora_rank: a.safetensors has rank 3 in layers where this run has another: "),
        ("lora", {"alpha": 7.0}, "lora_alpha: a.safetensors has alpha 6 in layers where this run has another: set"),
        ("rslora", {"alphas": {}}, "lora_alpha: a.safetensors has alpha 1.5 in layers where this run has another"),
        ("rslora", {"method": "lora"}, "lora_alpha"),
        ("lora", {"method": "loha"}, "lora_method: a.safetensors holds lora: set lora_method: lora"),
        ("dora", {"method": "lora"}, "lora_method: a.safetensors holds dora: set lora_method: dora"),
        ("lokr, second split", {"lokr_factor": 4}, "lokr_factor: a.safetensors splits 4 layers otherwise (inner.three"),
    ],
)  # fmt: skip
def test_what_must_be_set_to_go_on_from_a_file(case: str, changes: dict[str, Any], problem: str) -> None:
    file = adapters.exported(adapted(case), export_key)
    model = adapted(case, fresh=True, **changes)
    before = {name: p.detach().clone() for name, p in adapters.parameters(model).items()}
    with pytest.raises(ConfigError) as error:
        adapters.start_from(model, file, export_key, "a.safetensors")
    assert str(error.value).startswith("init_lora has 1 fault:\n")
    (told,) = error.value.problems
    assert told.startswith(problem)
    assert all(torch.equal(p, before[name]) for name, p in adapters.parameters(model).items())


def test_the_layers_of_a_file_must_be_those_of_the_run() -> None:
    file = adapters.exported(adapted("lora"), export_key)
    model = Small()
    adapters.inject(model, lambda n, m: n in ("linear", "wide"), rank=4, alpha=6.0, seed=0)
    with pytest.raises(ConfigError) as error:
        adapters.start_from(model, file, export_key, "a.safetensors")
    assert error.value.problems == (
        "lora_targets, lora_blocks: a.safetensors holds other layers than this run trains: "
        "2 of its layers are not trained (inner.three, one)",
    )
    less = {name: tensor for name, tensor in file.items() if "_one" not in name}
    with pytest.raises(ConfigError, match=r"1 of this run's layers are not in it \(one\)"):
        adapters.start_from(adapted("lora", fresh=True), less, export_key)


# --- strength, and without


@pytest.mark.parametrize("case", CASES)
def test_without_its_adapters_a_model_is_the_base(case: str) -> None:
    model = adapted(case)
    before = predict(model)
    with adapters.disabled(model):
        assert torch.equal(predict(model), predict(Small()))
        with adapters.disabled(model):
            pass
        assert torch.equal(predict(model), predict(Small()))
    assert torch.equal(predict(model), before)
    with pytest.raises(KeyError), adapters.disabled(model):
        raise KeyError
    assert torch.equal(predict(model), before)
    assert all(p.requires_grad for p in adapters.parameters(model).values())


@pytest.mark.parametrize("case", CASES)
def test_strengths_multiply_and_are_taken_back(case: str) -> None:
    model = adapted(case)
    before = predict(model)
    with adapters.strength(model, 0.25):
        quarter = predict(model)
        with adapters.strength(model, 4.0):
            assert torch.allclose(predict(model), before, rtol=1e-4, atol=1e-5)
        assert torch.equal(predict(model), quarter)
    assert torch.equal(predict(model), before)
    assert not torch.allclose(quarter, before, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_adapters_are_put_back_exactly(case: str) -> None:
    model = adapted(case)
    other = adapted(case, seed=4)
    adapters.load(other, {name: p.detach().clone() for name, p in adapters.parameters(model).items()})
    assert torch.equal(predict(other), predict(model))


def test_a_file_in_half_precision() -> None:
    file = {name: tensor.half() for name, tensor in adapters.exported(adapted("lora"), export_key).items()}
    model = Small()
    adapters.from_file(model, file, export_key)
    assert {p.dtype for p in adapters.parameters(model).values()} == {torch.float32}
    assert relative(predict(model), predict(adapted("lora"))) < 1e-2


def test_moving_and_targets_are_used() -> None:
    """The toy itself: its adapters differ from the base, and every layer is a target."""
    model: nn.Module = Small()
    assert sum(is_target(name, module) for name, module in model.named_modules()) == 4
    adapters.inject(model, is_target, rank=1, alpha=1.0, seed=0)
    before = predict(model)
    move(model)
    assert not torch.allclose(predict(model), before, atol=1e-3)
