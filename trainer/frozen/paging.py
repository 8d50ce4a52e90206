"""Weights that lie in RAM and are copied to a device as they are needed, the next ones ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch

CHUNK = 1 << 28  # bytes; a power of two, to which torch would round pinned memory up
_ALIGNED = 64


class Copier(Protocol):
    """Copies to a device, in the background if it can."""

    def start(self, tensor: torch.Tensor) -> Any:
        """Begins a copy."""
        ...

    def finish(self, copy: Any) -> torch.Tensor:
        """What was copied, once it can be used. A copy that is let go of must have been finished."""
        ...


class Here:
    """For the CPU: what lies in RAM is where it is needed."""

    def start(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def finish(self, copy: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return copy


class Waiting:
    """For a device without streams of its own: copies at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self, tensor: torch.Tensor) -> torch.Tensor:
        """The copy."""
        return tensor.to(self._device)

    def finish(self, copy: torch.Tensor) -> torch.Tensor:
        """The copy."""
        return copy


class Ahead:
    """For CUDA: copies on a stream of their own, beside the computation.

    The memory is the computing stream's: it is reused in that stream's order. So the copies wait for what was launched
    before them, and the memory that they take is bounded, however far the program runs ahead of the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Begins a copy of a tensor in pinned memory."""
        copy = torch.empty_like(tensor, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            copy.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        return copy, event

    def finish(self, copy: tuple[torch.Tensor, torch.cuda.Event]) -> torch.Tensor:
        """Has the computing stream wait for it."""
        torch.cuda.current_stream(self._device).wait_event(copy[1])
        return copy[0]


def copier_of(device: torch.device) -> Copier:
    """The copier for a device."""
    if device.type == "cpu":
        return Here()
    return Ahead(device) if device.type == "cuda" else Waiting(device)


class Arena:
    """RAM that weights are put into, side by side."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._chunk, self._used = torch.empty(0, dtype=torch.uint8), 0

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor in RAM; unpinned is left where it is."""
        if not self._pinned:
            return tensor.cpu()
        if self._used + tensor.nbytes > self._chunk.numel():
            self._chunk, self._used = _pinned(max(CHUNK, tensor.nbytes)), 0
        place = self._chunk[self._used : self._used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self._used += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        return place.copy_(tensor)


def _pinned(size: int) -> torch.Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:  # the system allows no more: the device then waits for its copies
        return torch.empty(size, dtype=torch.uint8)


class Pager:
    """Weights in RAM, brought to a device in the order in which they were needed before.

    Training and what runs without gradients (validation, samples) have an order each, learnt in a first pass, and
    again whenever it is not followed. A weight that comes out of turn is copied when it is asked for.

    Args:
        device: where weights are needed.
        keep_bytes: of weights on the device, beside the one in use: what comes next, as far as that reaches.
        copier: makes the copier for a device.
    """

    def __init__(
        self, device: torch.device, keep_bytes: int, copier: Callable[[torch.device], Copier] = copier_of
    ) -> None:
        self._there: dict[int, Any] = {}  # id of a tensor in RAM -> its copy
        self.device, self.keep_bytes, self._make = device, keep_bytes, copier
        self._copier = copier(device)
        self._current: torch.Tensor | None = None
        self._orders: dict[bool, list[torch.Tensor]] = {}  # by whether gradients are taken
        self._with_gradients = False
        self._asked: list[torch.Tensor] | None = None  # in this pass
        self._follow([])

    def begin(self, *_: Any) -> None:
        """A pass begins: the model is called. (As a hook it is given the model and its inputs.)"""
        through = self._order and self._at == len(self._order)
        if self._asked and not through:
            self._orders[self._with_gradients] = self._asked
        self._asked, self._with_gradients = [], torch.is_grad_enabled()
        order = self._orders.get(self._with_gradients, [])
        if through and order is self._order:  # what is foreseen are its first ones, already
            self._at, self._end = 0, self._end - len(order)
            self._use(None)
        else:
            self._follow(order)

    def fetch(self, stored: torch.Tensor) -> torch.Tensor:
        """The weight on the device, as the next one that the model needs."""
        if stored is not self._current:
            if self._asked is not None:
                self._asked.append(stored)
            self._advance(stored)
            self._use(stored)
        self._start(stored)
        self._foresee()
        return self._copier.finish(self._there[id(stored)])

    def glance(self, stored: torch.Tensor) -> torch.Tensor:
        """The weight on the device, out of turn."""
        there = self._there.get(id(stored))
        return self._copier.finish(self._copier.start(stored) if there is None else there)

    def move(self, device: torch.device) -> None:
        """The model is moved to another device."""
        if device != self.device:
            self._follow([])
            self.device, self._copier = device, self._make(device)

    def __del__(self) -> None:
        with suppress(RuntimeError):  # the device may have gone before
            self._drop_all()

    def __deepcopy__(self, memo: dict[int, Any]) -> Pager:
        return Pager(self.device, self.keep_bytes, self._make)

    def _follow(self, order: list[torch.Tensor]) -> None:
        """Begins with an order; with none nothing is foreseen."""
        self._drop_all()
        self._current = None
        # Foreseen are the places from _at, the next one, up to _end; the order goes round.
        self._order, self._at, self._end = order, 0, 0
        self._ahead, self._bytes = Counter[int](), 0  # how often a weight is among them; their size
        self._foresee()

    def _foresee(self) -> None:
        while self._end < self._at + len(self._order):
            stored = self._order[self._end % len(self._order)]
            if id(stored) not in self._ahead:
                if self._bytes + stored.nbytes > self.keep_bytes:
                    return
                self._start(stored)
                self._bytes += stored.nbytes
            self._ahead[id(stored)] += 1
            self._end += 1

    def _advance(self, stored: torch.Tensor) -> None:
        """A weight is needed now, so no longer ahead."""
        if self._at >= len(self._order) or self._order[self._at] is not stored:
            if self._order:
                self._follow([])
            return
        self._at += 1
        if self._end < self._at:
            self._end = self._at
            return
        self._ahead[id(stored)] -= 1
        if not self._ahead[id(stored)]:
            del self._ahead[id(stored)]
            self._bytes -= stored.nbytes

    def _use(self, stored: torch.Tensor | None) -> None:
        """Takes the place of the weight in use, which stays only if it is needed again soon."""
        before, self._current = self._current, stored
        if before is not None and id(before) not in self._ahead:
            self._drop(id(before))

    def _start(self, stored: torch.Tensor) -> None:
        if id(stored) not in self._there:
            self._there[id(stored)] = self._copier.start(stored)

    def _drop(self, key: int) -> None:
        if key in self._there:
            self._copier.finish(self._there.pop(key))

    def _drop_all(self) -> None:
        for key in list(self._there):
            self._drop(key)
