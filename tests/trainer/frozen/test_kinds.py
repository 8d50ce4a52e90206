"""What a stored weight stands for: how far it is from the original, in how many bytes, the same in every format."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.frozen import possible
from trainer.frozen.kinds import BLOCK, pack, size, unpack

SHAPES = ((96, 160), (48, 32, 3, 3), (7, 9))
LOW = ("int8", "fp8", "nf4")


def drawn(shape: tuple[int, ...], spread: float = 0.03, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


def stands_for(kind: str, weight: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return unpack(kind, pack(kind, weight), weight.shape, dtype)


def error(kind: str, weight: torch.Tensor) -> float:
    return float((stands_for(kind, weight) - weight).norm() / weight.norm())


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_error_is_that_of_the_number_format(shape: tuple[int, ...]) -> None:
    weight = drawn(shape)
    # Three bits of mantissa: a step of 1/8 to 1/16 of the number, an error of 1/sqrt(12) of that.
    assert 1 / 16 / 12**0.5 < error("fp8", weight) < 1 / 8 / 12**0.5
    # Steps of a 127th of the largest of 64, which of a normal weight is about 2.4 standard deviations.
    assert 0.8 < error("int8", weight) / (2.4 / 127 / 12**0.5) < 1.2
    # 16 values for what lies between two standard deviations and a half: QLoRA's table says 9 % for a normal weight.
    assert 0.08 < error("nf4", weight) < 0.10


def test_no_weight_of_fp8_is_further_off_than_half_a_step() -> None:
    weight = drawn((64, 512))
    off = (stands_for("fp8", weight) - weight).abs()
    # What is so small beside its row's largest that it has no normal number has that one's step.
    least = weight.abs().amax(1, keepdim=True) / 448 * 2 * 2**-6
    assert (off <= torch.maximum(weight.abs(), least) / 16).all()


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_the_error_does_not_depend_on_the_size_of_a_row(kind: str, factor: float) -> None:
    weight = drawn((64, 2 * BLOCK))
    uneven = weight.clone()
    uneven[::2] *= factor
    assert error(kind, uneven[::2]) == pytest.approx(error(kind, weight[::2]), rel=0.1)
    assert torch.equal(stands_for(kind, uneven)[1::2], stands_for(kind, weight)[1::2])


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_the_same_in_every_number_format(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = drawn(shape)
    packed = pack(kind, weight)
    exact = unpack(kind, packed, weight.shape, torch.float32)
    assert exact.shape == weight.shape
    assert torch.equal(exact.bfloat16().float(), exact)
    found = unpack(kind, packed, weight.shape, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))
    half = drawn(shape).to(dtype)
    assert all(torch.equal(a, b) for a, b in zip(pack(kind, half), pack(kind, half.float()), strict=True))


@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_what_has_been_stored_once_is_stored_without_loss(kind: str) -> None:
    once = stands_for(kind, drawn((32, 128)))
    assert torch.equal(stands_for(kind, once), once)


@pytest.mark.parametrize("kind", LOW)
def test_rows_of_nothing_stay_nothing(kind: str) -> None:
    weight = drawn((4, BLOCK))
    weight[1] = 0
    found = stands_for(kind, weight)
    assert torch.equal(found[1], torch.zeros(BLOCK))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("kind", ["plain", *LOW])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_size_is_told_before(kind: str, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        packed = pack(kind, drawn(shape).to(dtype))
        assert sum(tensor.nbytes for tensor in packed) == size(kind, torch.Size(shape), dtype)
    large = torch.Size((1024, 1024))
    bits = {"plain": 16, "int8": 8.25, "fp8": 8 + 16 / 1024, "nf4": 4.25}[kind]
    assert size(kind, large, torch.bfloat16) * 8 == bits * large.numel()


def test_nf4_is_bitsandbytes_nf4() -> None:
    functional: Any = pytest.importorskip("bitsandbytes.functional")
    weight = drawn((256, 256))
    packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state)
    # Ours has its scales in bf16, so next to a border a weight may fall to the other side.
    same = (pack("nf4", weight)[0] == packed.flatten()).float().mean()
    assert same > 0.97
    assert error("nf4", weight) < 1.01 * float((theirs - weight).norm() / weight.norm())
    assert float((stands_for("nf4", weight) - theirs).norm() / weight.norm()) < 0.03


def test_all_are_possible_on_a_cpu_but_not_what_saves_room_on_a_device() -> None:
    assert possible("cpu") == LOW
