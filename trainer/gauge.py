"""How much memory there is and how much is taken: of a card that has its own, else of this process."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .launch import launched

GB = 2**30  # as cards are named
KEPT_BACK = 0.12
"""Of what a step takes on Linux' CPU: glibc keeps a part of what is freed, and the next step finds no room in it. Seen
were 5 to 20 %."""
MARGIN = GB // 2  # of what is free: a card's context, fragments, and whatever else grows meanwhile
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Of a container: its limit, what it uses, and what of that is files that are merely cached; versions 2 and 1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


class Gauge:
    """Peaks of a device's memory, piece by piece.

    On a card it is what torch has allocated there; on Linux' CPU the process. Elsewhere the system gives no peak of a
    piece: there the tensors that come and go are counted, which leaves out what kernels take within.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._card = device, card(device)
        self._most = self._kept = 0
        self._resets = self._card is not None or (device.type == "cpu" and _clear())

    def now(self) -> int:
        """Bytes taken."""
        if self._card is not None:
            return self._card.memory_allocated(self.device)
        return torch.mps.current_allocated_memory() if self.device.type == "mps" else _process().rss

    def begin(self) -> None:
        """Forgets the peak so far, and what is kept."""
        self._most = self._kept = 0
        if self._resets:
            self._forget()

    def most(self) -> int:
        """The peak so far, without what was done ``apart``; 0 where the system does not tell."""
        return max(self._most, self._peak() + self._kept)

    def keep(self, size: int) -> None:
        """From now on so many bytes are taken that are no tensor's."""
        if self._resets:
            self._reset()
        self._kept = size

    @contextmanager
    def piece(self, known: Iterable[torch.Tensor] = ()) -> Iterator[list[int]]:
        """Afterwards the list holds one number: how many bytes at most were taken at once, beyond those before.

        Args:
            known: what is there already (only where tensors are counted).
        """
        grown: list[int] = []
        if not self._resets:
            with _Counted(known) as counted:
                yield grown
            grown.append(counted.most)
            return
        if self._card is None:
            _trim()  # else the piece grows into what was freed before it, unseen
        self._reset()
        before = self.now()
        yield grown
        grown.append(max(0, self._peak() - before))

    def with_what_is_kept(self, size: int) -> int:
        """Bytes that what takes so many by itself comes to, when it is done again and again."""
        return size + int(KEPT_BACK * size) if self._card is None and self._resets else size

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What happens within it is no part of ``most``: what takes as much as there is, and makes do with less."""
        if not self._resets:
            yield
            return
        self._reset()
        try:
            yield
        finally:
            self._forget()

    def _peak(self) -> int:
        if self._card is not None:
            return self._card.max_memory_allocated(self.device)
        return process_peak()

    def _reset(self) -> None:
        self._most = self.most()
        self._forget()

    def _forget(self) -> None:
        if self._card is not None:
            self._card.reset_peak_memory_stats(self.device)
        else:
            _clear()


def card(device: torch.device) -> Any:
    """torch's functions for the memory of a card (``torch.cuda``, ``torch.xpu``); None for a device without."""
    return {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)


def budget(device: torch.device, limit: float | None = None) -> int:
    """Bytes that a run may take in all, with what this process has taken already.

    Args:
        device: to train on.
        limit: ``vram_limit``, in GB; None: none.
    """
    own = card(device)
    if own is not None:
        free = own.mem_get_info(device)[0] + own.memory_reserved(device) - MARGIN
        return free if limit is None else min(free, int(limit * GB) - MARGIN)
    if device.type == "mps":
        free = torch.mps.recommended_max_memory() - MARGIN
    else:
        free = _process().rss + ram_free() - MARGIN
    return free if limit is None else min(free, int(limit * GB))


def hold_to(device: torch.device, limit: float | None) -> None:
    """Makes torch run out of memory on a card where this process would take more than ``limit`` GB."""
    if device.type == "cuda" and limit is not None:
        total = torch.cuda.mem_get_info(device)[1]
        number = torch.cuda.current_device() if device.index is None else device.index  # it asks for one
        torch.cuda.set_per_process_memory_fraction(min(1.0, (limit * GB - MARGIN) / total), number)


def release(device: torch.device) -> None:
    """Gives back what nothing holds any more: to the card, and to the system."""
    gc.collect()
    if (own := card(device)) is not None:
        own.empty_cache()
    _trim()


def ram_free() -> int:
    """Bytes of RAM that can be taken before the system begins to swap; of a container, within its limit.

    Of several processes that train on this machine it is this one's share.
    """
    import psutil

    free = psutil.virtual_memory().available
    for limit, used, stat, cached in _GROUPS:
        with suppress(OSError, ValueError, StopIteration):
            most, taken = (int(Path(name).read_text(encoding="ascii")) for name in (limit, used))
            lines = (line.split() for line in Path(stat).read_text(encoding="ascii").splitlines())
            free = min(free, most - taken + next(int(number) for name, number in lines if name == cached))
            break
    return max(0, free) // launched().local_world


def swap_free() -> int:
    """Bytes of swap that are free."""
    import psutil

    with suppress(OSError, RuntimeError):  # some systems do not tell
        return psutil.swap_memory().free
    return 0


def process_peak() -> int:
    """Peak bytes of this process; 0 where the system does not tell."""
    # Linux's ru_maxrss begins with the peak of whoever started the process: a worker would tell ComfyUI's.
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    own = next((line for line in lines if line.startswith("VmHWM:")), "")
    if own:
        return int(own.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return getattr(_process(), "peak_wset", 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _process() -> Any:
    import psutil

    return psutil.Process().memory_info()


def _clear() -> bool:
    """Linux: the process' peak begins anew. Returns whether it does."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _trim() -> None:
    """Has glibc give back what is freed; it keeps that for later, which looks like a need of the process itself."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Counted(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it, while they live."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = {tensor.untyped_storage()._cdata: None for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, result)
        return result

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = None
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size).atexit = False

    def _gone(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.now -= size
