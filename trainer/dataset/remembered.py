"""Answers about files, remembered while the files do not change; their content hashes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ..files import sha256

# A file that changed so recently may change again without a new time stamp (2 s on FAT): not remembered.
_FRESH_NS = 2_000_000_000

T = TypeVar("T")


class Remembered(Generic[T]):
    """A function of a file, whose answers are remembered while the file's size and time stamp stay the same.

    In this process. A file that changed less than 2 s ago is always asked anew.
    """

    def __init__(self, function: Callable[[str], T]) -> None:
        self._function = function
        # By a hash of path, size and time, which take six times its memory. 60 bits fit into the smallest int.
        self._answers: dict[int, T] = {}

    def __call__(self, path: str | Path) -> T:
        """The function's answer for this file as it is now.

        Raises:
            OSError: the file cannot be read.
        """
        path = os.path.abspath(path)
        stat = os.stat(path)
        named = f"{stat.st_size}|{stat.st_mtime_ns}|".encode() + os.fsencode(path)
        key = int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big") >> 4
        known = self._answers.get(key)
        if known is not None:
            return known
        answer = self._function(path)
        if time.time_ns() - stat.st_mtime_ns > _FRESH_NS:
            self._answers[key] = answer
        return answer


def _sha256(path: str) -> bytes:
    if not os.path.isfile(path):
        # Opening a pipe would wait for ever.
        raise OSError("not a file")
    return bytes.fromhex(sha256(Path(path))[:32])


_hashes: Remembered[bytes] = Remembered(_sha256)


def content_hash(path: str | Path) -> str:
    """First 32 hex digits of the SHA-256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    return _hashes(path).hex()
