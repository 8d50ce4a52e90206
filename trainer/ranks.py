"""Several processes that train one run: what the first of them says, what the others answer, their gradients as one.

The first (rank 0) leads: it alone reads and writes the run folder and decides. The others do what it tells them, order
by order, so nothing can be decided differently in two places. Orders and answers are JSON, sent by gloo; gradients and
weights go by NCCL between cards. An order that nobody tells is ``end``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import rendezvous

from . import memory
from .device import ON_WINDOWS, named
from .errors import ConfigError, DarkroomError, RunError, UserError, WorkerError, in_a_line
from .launch import Launched, launched, missing

MEETING = timedelta(minutes=10)
"""How long a process waits for the others to start, and for their part of a sum."""
PATIENCE = timedelta(hours=12)
"""How long a process that lives is waited for: it may encode a large data set, or draw samples."""
_OVER = "over"
_ANSWERED = ("meet", "plan", "fill", "attempt", "step")


class Ended(Exception):
    """The first process has nothing more to tell."""


class Dropped(Exception):
    """In place of going on with a step the first process has told something else.

    Args:
        order: what.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        super().__init__(order["do"])
        self.order = order


class Ranks:
    """The processes of a run, seen from one of them. Where there is only one, all of this does nothing.

    Args:
        place: which of them this is.
        device: what it trains on, by its name; empty: as the first.
        board: what all of them can read and write at any time.
    """

    def __init__(self, place: Launched | None = None, device: str = "", board: distributed.Store | None = None) -> None:
        place = place or Launched()
        self.rank, self.world = place.rank, place.world
        self.stop = False
        """Whether another process was asked to stop."""
        self._lost, self._board = False, board
        self._owed: list[int] = []
        self._names = {rank: f"rank {rank}" for rank in range(self.world)}
        self._orders: Any = None
        self._sums: Any = None
        if self.world > 1:
            self._orders = distributed.new_group(backend="gloo", timeout=PATIENCE)
            self._meet(device)

    @property
    def first(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    # --- orders, and answers to them

    def tell(self, do: str, **order: Any) -> None:
        """From the first process to all others."""
        self._forget_answers()
        for rank in range(1, self.world):
            self._send({"do": do, **order}, rank)
        self._owed = list(range(1, self.world)) if do in _ANSWERED else []

    def heard(self) -> dict[str, Any]:
        """The next order.

        Raises:
            Ended: there will be none.
            WorkerError: the first process has gone.
        """
        order = self._receive(0)
        if order["do"] == "end":
            raise Ended
        return order

    def answer(self, said: dict[str, Any]) -> None:
        """From another process to the first."""
        self._send(said, 0)

    def answer_failure(self, error: BaseException) -> None:
        """The same, of an order that could not be fulfilled. What is no plain mistake is on stderr, with its trace."""
        if not isinstance(error, DarkroomError):
            traceback.print_exception(error, file=sys.stderr)
        told = in_a_line(error) if not isinstance(error, DarkroomError) else error.message
        self.answer(
            {
                "failed": told if isinstance(error, DarkroomError) else f"{type(error).__name__}: {told}",
                "cure": getattr(error, "cure", ""),
                "user": isinstance(error, UserError),
                "memory": memory.ran_out(error),
            }
        )

    def answers(self) -> list[dict[str, Any]]:
        """What all others say to the last order.

        Raises:
            RunError, UserError, torch.OutOfMemoryError: one of them could not fulfil it.
            WorkerError: one of them has gone.
        """
        said = []
        while self._owed:
            said.append((self._owed[0], self._receive(self._owed[0])))
            self._owed.pop(0)
        for rank, one in said:
            self.stop |= one.get("stop", False)
            if "failed" in one:
                message = f"{self._names[rank]}: {one['failed']}"
                if one["memory"]:
                    raise torch.OutOfMemoryError(message)
                raise (UserError if one["user"] else RunError)(message, one["cure"])
        return [one for _, one in said]

    @property
    def over(self) -> bool:
        """Whether what takes all of them long is of no use any more: one of them has ended it."""
        if self._board is None:
            return False
        try:
            return bool(missing()) or self._board.check([_OVER])
        except RuntimeError:  # who keeps the board has gone
            return True

    def break_off(self) -> None:
        """Has all others see that it is ``over``."""
        if self._board is not None:
            with suppress(RuntimeError):
                self._board.set(_OVER, "")

    @contextmanager
    def together(self, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Within it all do their part of a step. If one of them cannot, none goes on from here.

        Args:
            stop: whether this process was asked to stop; asked once its part is done.

        Raises:
            Dropped: on another process than the first, where it is told something else than to go on.
        """
        if self.first:
            yield
            self.answers()
            self.tell("go")
            return
        try:
            yield
        except Exception as error:
            self.answer_failure(error)
            raise
        self.answer({"stop": stop()})
        if (order := self.heard())["do"] != "go":
            raise Dropped(order)

    # --- tensors

    def own(self, parameters: Sequence[nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """What this process has to ``add_up``, as one: its loss, which parameters have gradients, and these.

        By itself, because it takes memory: where that is out, the others can still be told.
        """
        if self.world == 1:
            return loss
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=loss.device)
        each = (p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters)
        return torch.cat([loss.reshape(1), has, *(gradient.flatten() for gradient in each)])

    def add_up(self, parameters: Sequence[nn.Parameter], own: torch.Tensor) -> torch.Tensor:
        """Every process' gradients become the sum of all; returns the sum of their losses.

        A parameter that had no gradient anywhere has none afterwards.

        Args:
            parameters: the same everywhere.
            own: of this process, as ``own`` gives it; overwritten.
        """
        if self.world == 1:
            return own
        with self._summing():
            distributed.all_reduce(own, group=self._sums)
        count = len(parameters)
        # The loss is kept for a while, and not with it all the gradients that it lies beside.
        total, has, rest = own[0].clone(), own[1 : 1 + count].tolist(), own[1 + count :]
        for parameter, some, part in zip(parameters, has, rest.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter) if some else None
        return total

    @torch.no_grad()
    def align(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process' weights become those of the first, to the last bit."""
        if self.world == 1:
            return
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
        with self._summing():
            distributed.broadcast(flat, 0, group=self._sums)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))

    def share(self, data: bytes | None) -> bytes:
        """Bytes of the first process, on all; the others give None."""
        if self.world == 1:
            return data or b""
        with self._summing():
            size = torch.tensor([len(data or b"")])
            distributed.broadcast(size, 0, group=self._orders)
            if data:
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            else:
                content = torch.empty(int(size), dtype=torch.uint8)
            if len(content):
                distributed.broadcast(content, 0, group=self._orders)
        return content.numpy().tobytes()

    # --- beneath

    def leave(self) -> None:
        """The last that a process does here. The first tells the others, unless one has gone: then they see it."""
        if self.first and not self._lost:
            self.break_off()
            with suppress(WorkerError):
                self.tell("end")

    def gone(self) -> None:
        """Nothing more is told: the others see that this process has gone."""
        self._lost = True

    def _meet(self, device: str) -> None:
        """Says who is who, and on which kind of device all of them are."""
        if self.first:
            own = _device(device)
            self.tell("meet", device=device, kind=own.type)
            for rank, said in zip(range(1, self.world), self.answers(), strict=True):
                self._names[rank] = said["name"]
        else:
            order = self.heard()
            try:
                own = _device(device or order["device"])
                if own.type != order["kind"]:
                    raise ConfigError([f"device: {own.type} here, and {order['kind']} of rank 0; expected the same"])
            except ConfigError as error:
                self.answer_failure(error)
                with suppress(Ended, WorkerError):
                    self.heard()  # so that the answer is heard before this process goes
                raise
            self.answer({"name": f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()})"})
        if own.type == "cuda":
            if own.index is not None:
                torch.cuda.set_device(own)
            self._sums = distributed.new_group(backend="nccl", timeout=MEETING)

    def _forget_answers(self) -> None:
        """What nobody asks for any more. gloo holds a sender until it is received: both would wait for ever."""
        while self._owed:
            self._receive(self._owed.pop(0))

    def _send(self, message: dict[str, Any], rank: int) -> None:
        data = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        try:
            distributed.send(torch.tensor([len(data)]), rank, group=self._orders)
            distributed.send(data, rank, group=self._orders)
        except RuntimeError:
            raise self._has_gone(self._names[rank]) from None

    def _receive(self, rank: int) -> dict[str, Any]:
        size = torch.empty(1, dtype=torch.int64)
        try:
            distributed.recv(size, rank, group=self._orders)
            data = torch.empty(int(size), dtype=torch.uint8)
            distributed.recv(data, rank, group=self._orders)
        except RuntimeError:
            raise self._has_gone(self._names[rank]) from None
        return json.loads(data.numpy().tobytes())

    @contextmanager
    def _summing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if memory.ran_out(error):
                raise
            who = self._names[1 - self.rank] if self.world == 2 else "one of the others"
            raise self._has_gone(who) from None

    def _has_gone(self, who: str) -> WorkerError:
        self._lost = True
        return WorkerError(
            f"{who} of {self.world} processes has gone, or does not answer",
            "what it said last tells why; start all of them again",
        )


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The processes that were started together, while they train.

    Args:
        device: of the config; empty: as the first's.

    Raises:
        ConfigError: several processes cannot train on this system, or on this device.
        WorkerError: they do not find each other.
    """
    place = launched()
    if place.world == 1:
        yield Ranks()
        return
    if sys.platform == "win32":
        raise ConfigError([f"several processes {ON_WINDOWS}"], "the environment")
    # Else they fight for the cores, and a step takes many times as long.
    torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // place.local_world)))
    try:
        if place.meeting:
            board = distributed.FileStore(place.meeting, place.world)
            board.set_timeout(MEETING)
        else:
            board, _, _ = next(rendezvous("env://", place.rank, place.world, timeout=MEETING))
        _wait_for_all(board, place)
        distributed.init_process_group("gloo", store=board, rank=place.rank, world_size=place.world, timeout=MEETING)
    except (RuntimeError, ValueError) as error:
        raise WorkerError(
            f"the {place.world} processes do not find each other: {in_a_line(error)}",
            "start all of them, with the address and the port of the first (MASTER_ADDR, MASTER_PORT), which the "
            "others must be able to reach",
        ) from None
    try:
        ranks = Ranks(place, device, board)
        try:
            yield ranks
        except (KeyboardInterrupt, GeneratorExit):
            ranks.gone()
            raise
        finally:
            ranks.leave()
    finally:
        distributed.destroy_process_group()


def _wait_for_all(board: distributed.Store, place: Launched) -> None:
    """Until every process has come, or one that was started here has ended.

    Raises:
        RuntimeError: one of them will not come.
    """
    board.set(f"here {place.rank}", "")
    until = time.monotonic() + MEETING.total_seconds()
    while not board.check([f"here {rank}" for rank in range(place.world)]):
        if missing():
            raise RuntimeError(f"rank {missing()[0]} has ended")
        if time.monotonic() > until:
            raise RuntimeError("not all have come")
        time.sleep(0.05)


def _device(name: str) -> torch.device:
    device = named(name)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError([f"device: several processes train on cuda or cpu, not on {device.type}"])
    return device
