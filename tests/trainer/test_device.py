"""Which device, and which number format on it; the GPUs here are told, not there."""

from __future__ import annotations

import os

import pytest
import torch

from trainer import device
from trainer.config import TrainConfig, parse
from trainer.device import DTYPES, accelerate, precision, resolve
from trainer.errors import ConfigError


def config(**fields: object) -> TrainConfig:
    return parse(fields)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No GPU, unless a test says so."""
    set_hardware(monkeypatch)
    return monkeypatch


def set_hardware(patch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False, bf16: bool = True) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    patch.setattr(torch.cuda, "device_count", lambda: gpus)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    patch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        ("auto", {}, "cpu"),
        ("auto", {"gpus": 1}, "cuda"),
        ("auto", {"mps": True}, "mps"),
        ("auto", {"gpus": 2, "mps": True}, "cuda"),
        ("cpu", {"gpus": 1}, "cpu"),
        ("cuda", {"gpus": 1}, "cuda"),
        ("cuda:0", {"gpus": 1}, "cuda:0"),
        ("cuda:1", {"gpus": 2}, "cuda:1"),
        ("mps", {"mps": True}, "mps"),
    ],
)
def test_the_device_that_is_taken(
    hardware: pytest.MonkeyPatch, asked: str, there: dict[str, int], expected: str
) -> None:
    set_hardware(hardware, **there)  # type: ignore[arg-type]
    assert resolve(config(device=asked)) == torch.device(expected)


@pytest.mark.parametrize(
    ("asked", "there", "message"),
    [
        ("cuda", {}, "device: cuda is not there (torch sees 0 GPUs)"),
        ("cuda:1", {"gpus": 1}, "device: cuda:1 is not there (torch sees 1 GPUs)"),
        ("mps", {"gpus": 1}, "device: mps is not there"),
        ("xpu:0", {}, "device: xpu:0 is not there"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    hardware: pytest.MonkeyPatch, asked: str, there: dict[str, int], message: str
) -> None:
    set_hardware(hardware, **there)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        resolve(config(device=asked))
    assert error.value.problems == (message,)


@pytest.mark.parametrize(
    ("wanted", "device", "bf16", "taken", "why"),
    [
        ("no", "cpu", True, "no", ""),
        ("no", "cuda", True, "no", ""),
        ("fp16", "cpu", True, "no", "mixed_precision: fp16 cannot be trained on a CPU; training in fp32"),
        ("fp16", "cuda", True, "fp16", ""),
        ("fp16", "cuda:1", False, "fp16", ""),
        ("bf16", "cuda", True, "bf16", ""),
        ("bf16", "cuda", False, "fp16", "mixed_precision: this card has no bf16; training in fp16"),
    ],
)
def test_the_number_format_and_why(
    hardware: pytest.MonkeyPatch, wanted: str, device: str, bf16: bool, taken: str, why: str
) -> None:
    set_hardware(hardware, gpus=1, bf16=bf16)
    assert precision(config(mixed_precision=wanted), torch.device(device)) == (taken, why)
    assert taken in DTYPES


def test_every_format_has_its_dtype() -> None:
    assert {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16} == DTYPES


def test_one_process_may_train_in_several_formats_and_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate itself remembers the first of a process."""
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    for mixed in ("no", "bf16", "no"):
        made = accelerate(torch.device("cpu"), mixed)
        assert (made.mixed_precision, made.device) == (mixed, torch.device("cpu"))
    assert accelerate(torch.device("cpu:0"), "no").device == torch.device("cpu:0")
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    assert accelerate(torch.device("cpu"), "no").device == torch.device("cpu")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu:0")  # a user's own
    assert accelerate(torch.device("cpu"), "no").device == torch.device("cpu:0")
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "cpu:0"


# --- auto


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: tuple[float, float]) -> list[tuple[str, int]]:
    """Trials that take what they are told: for each format the small and the large one."""
    tried: list[tuple[str, int]] = []

    def trial(device_: torch.device, kind: str, size: int) -> float:
        tried.append((kind, size))
        return seconds[kind][size == device.LARGE]

    monkeypatch.setattr(device, "_seconds", trial)
    return tried


@pytest.mark.parametrize(
    ("where", "seconds", "taken", "why"),
    [
        ("cpu", {"no": (1e-4, 0.1), "bf16": (2e-4, 0.05)}, "bf16", "is bf16 here (fp32 100.0 ms, bf16 50.0 ms)"),
        ("cpu", {"no": (1e-4, 0.1), "bf16": (1e-4, 0.095)}, "no", "is fp32 here (fp32 100.0 ms, bf16 95.0 ms)"),
        ("cpu", {"no": (1e-4, 0.1), "bf16": (1e-2, 0.0)}, "no", "is fp32 here (fp32 100.0 ms)"),
        (
            "cuda",
            {"no": (1e-4, 0.1), "bf16": (1e-4, 0.02), "fp16": (1e-4, 0.019)},
            "fp16",
            "is fp16 here (fp32 100.0 ms, bf16 20.0 ms, fp16 19.0 ms)",
        ),
    ],
)
def test_auto_takes_what_is_faster(
    hardware: pytest.MonkeyPatch, where: str, seconds: dict[str, tuple[float, float]], taken: str, why: str
) -> None:
    set_hardware(hardware, gpus=1)
    tried = timed(hardware, **seconds)
    assert precision(config(mixed_precision="auto"), torch.device(where)) == (taken, f"mixed_precision: auto {why}")
    # What is hopeless in the small trial is spared the large one.
    assert (("bf16", device.LARGE) in tried) == (seconds["bf16"][0] < 4 * seconds["no"][0])


def test_auto_stays_with_what_a_run_began_in(hardware: pytest.MonkeyPatch) -> None:
    timed(hardware)
    for former in ("bf16", "no"):
        assert precision(config(mixed_precision="auto"), torch.device("cpu"), former) == (former, "")
        assert precision(config(mixed_precision="bf16"), torch.device("cpu"), former) == (former, "")
    taken, why = precision(config(mixed_precision="auto"), torch.device("cpu"), "fp16")
    assert (taken, why) == ("no", "mixed_precision: fp16 cannot be trained on a CPU; training in fp32")


def test_bf16_on_a_cpu_without_instructions_for_it_is_not_taken_at_its_word(hardware: pytest.MonkeyPatch) -> None:
    timed(hardware, no=(1e-4, 0.0), bf16=(1e-2, 0.0))
    assert precision(config(mixed_precision="bf16"), torch.device("cpu")) == (
        "no", "mixed_precision: bf16 is 100 times slower than fp32 on this CPU; training in fp32",
    )  # fmt: skip


def test_a_trial_measures_something() -> None:
    assert 0 < device._seconds(torch.device("cpu"), "no", device.SMALL) < 5
