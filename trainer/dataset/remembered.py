"""Answers about files, remembered while the files do not change: content hashes, and what scans find out.

``recall`` and ``keep`` carry them from one process to the next, so that what is known of 50,000 pictures is one file to
read and not 50,000.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..files import read_json, sha256, write_text

# A file that changed so recently may change again without a new time stamp (2 s on FAT): not remembered.
_FRESH_NS = 2_000_000_000
#: Answers of a kind that are kept for the next process, those of the newest questions.
MOST_KEPT = 200_000
_VERSION = 1  # of the file, and of what the answers mean

T = TypeVar("T")


class Remembered(Generic[T]):
    """A function of a file, whose answers are remembered while the file's size and time stamp stay the same.

    A file that changed less than 2 s ago is always asked anew.

    Args:
        function: of the file's absolute path, and of what else is given.
        name: by which the answers are kept.
        pack: an answer as plain data; None: it is not kept for other processes.
        unpack: the reverse.
    """

    def __init__(
        self, function: Callable[..., T], name: str, pack: Callable[[T], Any], unpack: Callable[[Any], T]
    ) -> None:
        self._function, self._pack, self._unpack = function, pack, unpack
        # By a hash of path, size and time, which take six times its memory. 60 bits fit into the smallest int.
        self._answers: dict[int, T] = {}
        self.new = 0  # answers since they were last kept
        _every[name] = self

    def __call__(self, path: str | Path, *more: object) -> T:
        """The function's answer for this file as it is now.

        Raises:
            OSError: the file cannot be read.
        """
        path = os.path.abspath(path)
        stat = os.stat(path)
        named = f"{stat.st_size}|{stat.st_mtime_ns}|{more or ''}".encode(errors="surrogatepass") + os.fsencode(path)
        key = int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big") >> 4
        known = self._answers.get(key)
        if known is not None:
            return known
        answer = self._function(path, *more)
        if time.time_ns() - stat.st_mtime_ns > _FRESH_NS:
            self._answers[key] = answer
            self.new += 1
        return answer

    def packed(self) -> dict[str, Any]:
        """The newest answers as plain data."""
        answers = dict(self._answers)
        newest = islice(answers.items(), max(0, len(answers) - MOST_KEPT), None)
        plain = ((f"{key:x}", self._pack(answer)) for key, answer in newest)
        return {key: answer for key, answer in plain if answer is not None}

    def learn(self, packed: dict[str, Any]) -> None:
        """Takes what another process has ``packed``; what is known here stays."""
        learnt = {int(key, 16): self._unpack(answer) for key, answer in packed.items()}
        self._answers = {**learnt, **self._answers}


_every: dict[str, Remembered[Any]] = {}
_recalled: dict[Path, int] = {}


def recall(file: Path) -> None:
    """Learns what was kept there; nothing, where there is no such file or a damaged one."""
    with suppress(OSError):
        changed = file.stat().st_mtime_ns
        if _recalled.get(file) != changed:
            _recalled[file] = changed
            data = read_json(file)
            for name, remembered in _every.items() if data.get("version") == _VERSION else ():
                with suppress(ValueError, TypeError, AttributeError):
                    remembered.learn(data.get(name, {}))


def keep(file: Path) -> None:
    """Keeps there what is known, if something of it is new. What two processes keep at once, one has to find again."""
    recall(file)  # what others have kept meanwhile
    if file in _recalled and not any(remembered.new for remembered in _every.values()):
        return
    data = {"version": _VERSION, **{name: remembered.packed() for name, remembered in _every.items()}}
    with suppress(OSError):  # then the next process looks for itself
        write_text(file, json.dumps(data, separators=(",", ":")))
        _recalled[file] = file.stat().st_mtime_ns
    for remembered in _every.values():
        remembered.new = 0


def _sha256(path: str) -> bytes:
    if not os.path.isfile(path):
        # Opening a pipe would wait for ever.
        raise OSError("not a file")
    return bytes.fromhex(sha256(Path(path))[:32])


_hashes: Remembered[bytes] = Remembered(_sha256, "hashes", bytes.hex, bytes.fromhex)


def content_hash(path: str | Path) -> str:
    """First 32 hex digits of the SHA-256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    return _hashes(path).hex()
