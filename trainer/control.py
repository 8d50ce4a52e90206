"""Requests into a run: stop, stop and keep, pause, save now, sample now.

The host writes ``control.json`` (replaced atomically), the worker polls it once per optimizer step. Signals and the
end of the stdin pipe become the same ``stop`` in ``run.py``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from .files import write_text

_changing = threading.Lock()


@dataclass(frozen=True)
class Requests:
    """What is asked of a run. ``save`` and ``sample`` count requests: each increase is one.

    ``pause`` is a person's wish; ``give_way`` is the host's, while something else needs the device. Neither ends the
    other. ``keep`` goes with ``stop``, and is for who started the run: what is saved then is what was wanted.
    """

    stop: bool = False
    pause: bool = False
    save: int = 0
    sample: int = 0
    give_way: bool = False
    keep: bool = False

    @property
    def rests(self) -> bool:
        """Whether the run is to be off the device."""
        return (self.pause or self.give_way) and not self.stop


def write(path: Path, requests: Requests) -> None:
    """Replaces the requests."""
    write_text(path, json.dumps(asdict(requests)))


def read(path: Path) -> Requests:
    """The requests; none where the file is missing or not ours."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return Requests()


def change(path: Path, edit: Callable[[Requests], Requests]) -> Requests:
    """Replaces the requests by what ``edit`` makes of them; of several threads of a process none loses another's."""
    with _changing:
        asked = edit(read(path))
        write(path, asked)
    return asked


def _parse(content: bytes) -> Requests:
    try:
        data = json.loads(content)
    except ValueError:
        return Requests()
    if not isinstance(data, dict):
        return Requests()
    plain = Requests()
    known = {
        f.name: type(getattr(plain, f.name))(data[f.name])
        for f in fields(Requests)
        if isinstance(data.get(f.name), (bool, int))
    }
    return replace(plain, **known)


class Poll:
    """Reads the requests again only when the file was replaced (one ``stat`` a step)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._last = Requests()

    def __call__(self) -> Requests:
        """The current requests."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                self._last = _parse(self._path.read_bytes())
                self._stamp = stamp
        except OSError:
            pass  # missing, or just being replaced (Windows): the next poll looks again
        return self._last
