"""Toy models and files for the families' tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer.families.toy import Toy
from trainer.families import sdxl


@pytest.fixture(scope="session")
def toy() -> Toy:
    """With a KL VAE."""
    return Toy()


@pytest.fixture(scope="session")
def toy_file(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as a single file in fp32."""
    return toy.save(tmp_path_factory.mktemp("t\u00f6y \u6a21\u578b") / "toy model.safetensors")


@pytest.fixture(scope="session")
def toy_xl() -> Toy:
    """SDXL's, with a KL VAE."""
    return Toy(family=sdxl.FAMILY)


@pytest.fixture(scope="session")
def toy_xl_file(toy_xl: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's toy as a single file in fp32."""
    return toy_xl.save(tmp_path_factory.mktemp("t\u00f6y \u6a21\u578b") / "toy xl.safetensors")


@pytest.fixture
def write_shapes(tmp_path: Path) -> Callable[..., Path]:
    """Writes zeros of given shapes: ``write_shapes({"name": (2, 3)}, "file name")``."""

    def write(shapes: Mapping[str, tuple[int, ...]], name: str = "f\u00fcle \u6a21.safetensors") -> Path:
        path = tmp_path / name
        save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
        return path

    return write


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach another machine fails."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"reached for the network: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
