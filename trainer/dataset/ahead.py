"""Work beside the work: the next pictures are decoded while one is encoded, and the one before is written."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..launch import launched

T = TypeVar("T")
R = TypeVar("R")


def threads() -> int:
    """How many pictures are decoded at the same time, which releases the interpreter's lock: at most 4.

    Each one holds a decoded picture. The processes of a machine that were started together share its cores.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, allowed // launched().local_world))


def ahead(do: Callable[[T], R], things: Iterable[T], most: int) -> Generator[tuple[T, R], None, None]:
    """Each thing with what ``do`` gives for it, in their order.

    Whoever takes them sets the pace: what waits to be taken is bounded, however many things there are. Where this
    process has one core, nothing is done ahead.

    Args:
        do: called in threads, once for each thing; what it raises is raised here when that thing's turn comes.
        things: asked for as they are needed.
        most: things that are in work or wait beyond the one that is taken.

    Closing the iterator waits for what is in work, and begins nothing more.
    """
    workers = min(threads(), most)
    if workers < 2:
        for thing in things:
            yield thing, do(thing)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="darkroom-ahead")
    # Not pool.map: a future for each of 50,000 images would weigh more than all that is known of them.
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for thing in things:
            waiting.append((thing, pool.submit(do, thing)))
            if len(waiting) > most:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, do not decode what is left first


class Behind:
    """A function that is called in a thread, one call at a time, while its caller goes on: to write what was made.

    What a call raises is raised by the next one, or at the end of the ``with``, which waits for the last one.
    """

    def __init__(self, do: Callable[..., object]) -> None:
        self._do = do
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="darkroom-behind")
        self._last: Future[object] | None = None

    def __enter__(self) -> Behind:
        return self

    def __call__(self, *args: Any) -> None:
        """Waits for the call before, and begins this one."""
        self._wait()
        self._last = self._pool.submit(self._do, *args)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if failed is None:
            self._wait()

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()


def _taken(waiting: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    """The first one, of which nothing is held here any more."""
    thing, future = waiting.popleft()
    return thing, future.result()
