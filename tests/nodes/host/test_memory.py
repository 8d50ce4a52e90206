"""What is unloaded and said before a training, under ComfyUI's memory flags; with faked figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

GB = 2**30


class Card:
    """comfy.model_management of a ComfyUI with a card of `total` bytes, of which others take `taken`."""

    def __init__(self, total: int, taken: int = 0, *, device: str = "cuda:0", offload: str = "cpu"):
        self.total, self.taken = total, taken
        self.models = 6 * GB
        self.done: list[str] = []
        self._device, self._offload = torch.device(device), torch.device(offload)

    def get_torch_device(self) -> torch.device:
        return self._device

    def unet_offload_device(self) -> torch.device:
        return self._offload

    def unload_all_models(self) -> None:
        self.done.append("unload")
        if self._offload != self._device:
            self.models = 0

    def soft_empty_cache(self) -> None:
        self.done.append("empty")

    def get_free_memory(self, device: torch.device) -> int:
        assert device == self._device
        self.done.append("look")
        return self.total - self.taken - self.models


@pytest.fixture
def room(
    load_node_file: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Card], tuple[Any, list[str]]]:
    """`room(card)`: the module for that card, and what it notes when it makes room."""

    def make(card: Card) -> tuple[Any, list[str]]:
        monkeypatch.setitem(sys.modules, "comfy", SimpleNamespace(model_management=card))
        monkeypatch.setitem(sys.modules, "comfy.model_management", card)
        sys.modules.pop("darkroom_under_test.nodes.host.memory", None)
        memory = load_node_file("host.memory")
        notes: list[str] = []
        memory.make_room(notes.append)
        return memory, notes

    return make


def test_models_go_before_the_memory_is_looked_at(room: Callable[[Card], tuple[Any, list[str]]]):
    card = Card(8 * GB)
    assert room(card)[1] == []
    assert card.done == ["unload", "empty", "look"]


def test_little_memory_is_said(room: Callable[[Card], tuple[Any, list[str]]]):
    """--lowvram and --normalvram alike: ComfyUI's models go to the RAM."""
    assert room(Card(8 * GB, 7 * GB))[1] == [
        "only 1.0 GB are free on cuda:0: the training gives up what does not fit, step by step"
    ]
    assert room(Card(8 * GB, 6 * GB))[1] == []


def test_models_that_stay_on_the_card_are_said(room: Callable[[Card], tuple[Any, list[str]]]):
    """--highvram and --gpu-only: the offload device is the card itself."""
    (note,) = room(Card(24 * GB, offload="cuda:0"))[1]
    assert "--highvram or --gpu-only" in note
    memory, _ = room(Card(24 * GB))
    assert not memory.keeps_models_on_the_card()


def test_on_the_cpu_there_is_no_card(room: Callable[[Card], tuple[Any, list[str]]]):
    memory, notes = room(Card(16 * GB, device="cpu"))
    assert notes == []
    assert memory.device() == "cpu"


@pytest.mark.parametrize(
    ("device", "name"), [("cuda:1", "cuda:1"), ("mps", "mps"), ("xpu:0", "xpu:0"), ("cuda", "cuda:3")]
)
def test_the_device_as_the_trainer_names_it(
    room: Callable[[Card], tuple[Any, list[str]]], monkeypatch: pytest.MonkeyPatch, device: str, name: str
):
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    memory, _ = room(Card(16 * GB, device=device))
    assert memory.device() == name


def test_what_runs_out_of_memory_while_encoding_is_tried_once_more_without_comfyuis_models(
    room: Callable[[Card], tuple[Any, list[str]]],
):
    card = Card(8 * GB)
    memory, _ = room(card)
    card.done.clear()
    card.models = 6 * GB

    def encode() -> str:
        if card.models:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return "encoded"

    assert memory.with_room(encode) == "encoded"
    assert card.done == ["unload", "empty", "look"]
    assert memory.with_room(encode) == "encoded"
    assert card.done == ["unload", "empty", "look"], "what fits unloads nothing"


@pytest.mark.parametrize(("error", "times"), [(torch.OutOfMemoryError("out of memory"), 2), (ValueError("shape"), 1)])
def test_what_cannot_be_encoded_fails_as_it_is(
    room: Callable[[Card], tuple[Any, list[str]]], error: Exception, times: int
):
    memory, _ = room(Card(8 * GB))
    tried: list[None] = []

    def encode() -> None:
        tried.append(None)
        raise error

    with pytest.raises(type(error), match=str(error)):
        memory.with_room(encode)
    assert len(tried) == times
