"""Pictures through a captioner: decoded ahead, as many at a time as memory allows, bad ones passed over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..dataset.items import Problem
from ..dataset.pixels import Unusable, load_picture
from ..errors import CaptionError
from ..gauge import release
from ..memory import ran_out
from .base import Session

if TYPE_CHECKING:
    from PIL.Image import Image

DECODERS = 2


class Batches:
    """The captions of images, a batch at a time.

    Args:
        session: says what is in them.
        images: absolute paths.
        looks: whether the session needs the pictures.
        device: that it works on, as torch names it.
        say: told when a batch had to be made smaller.

    Attributes:
        problems: images that cannot be read.
        left: images that were not looked at yet.
        eta: seconds to the end, by the batches so far.
    """

    def __init__(
        self, session: Session, images: Sequence[Path], looks: bool, device: str, say: Callable[[str], None]
    ) -> None:
        self.problems: list[Problem] = []
        self.left = len(images)
        self.eta = float("nan")
        self._session, self._images, self._looks, self._say = session, images, looks, say
        self._device = torch.device(device)
        self._most = max(1, session.batch)

    def __iter__(self) -> Iterator[list[tuple[Path, str]]]:
        """Images with what is said of them, batch after batch.

        Raises:
            CaptionError: captions cannot be made; or memory is out with a single picture.
        """
        began, total = time.monotonic(), self.left
        for paths, pictures in self._full():
            for said in self._said(paths, pictures):
                self.left -= len(said)
                self.eta = (time.monotonic() - began) * self.left / (total - self.left)
                yield said

    def _full(self) -> Iterator[tuple[list[Path], list[Image]]]:
        """As many at a time as go in at once."""
        paths: list[Path] = []
        pictures: list[Image] = []
        for path, picture in self._pictures():
            if isinstance(picture, Unusable):
                self.problems.append(Problem(path, picture.kind, f"{picture.message}; it has no caption"))
                self.left -= 1
                continue
            paths.append(path)
            pictures += [] if picture is None else [picture]
            if len(paths) >= self._most:
                yield paths, pictures
                paths, pictures = [], []
        if paths:
            yield paths, pictures

    def _pictures(self) -> Iterator[tuple[Path, Image | Unusable | None]]:
        """Every path with its picture; some are decoded while the captioner works."""
        if not self._looks:
            yield from ((path, None) for path in self._images)
            return
        waiting: deque[tuple[Path, Future[Image | Unusable]]] = deque()
        coming = iter(self._images)
        pool = ThreadPoolExecutor(DECODERS)
        try:
            while True:
                while len(waiting) <= self._most + DECODERS and (path := next(coming, None)) is not None:
                    waiting.append((path, pool.submit(_load, path)))
                if not waiting:
                    return
                path, future = waiting.popleft()
                yield path, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _said(self, paths: Sequence[Path], pictures: Sequence[Image]) -> Iterator[list[tuple[Path, str]]]:
        """What the captioner says, in parts where all at once is too much for the memory."""
        start = 0
        while start < len(paths):
            part = slice(start, start + self._most)
            try:
                said = self._session.caption(paths[part], pictures[part])
            except Exception as error:
                if not ran_out(error):
                    raise
                said = None
            if said is None:  # the error is gone, and with it the frames that held what was being computed
                self._halve(len(paths[part]))
                continue
            yield list(zip(paths[part], said, strict=True))
            start += self._most

    def _halve(self, count: int) -> None:
        release(self._device)
        if count == 1:
            raise CaptionError(
                f"out of memory on {self._device}, with one picture at a time",
                "Close whatever else takes memory, choose a smaller model, or let it run on the CPU.",
            )
        self._most = count // 2
        self._say(f"out of memory: {self._most} at a time from here on")


def _load(path: Path) -> Image | Unusable:
    try:
        return load_picture(path)
    except Unusable as error:
        return error
