"""Requests into a run: replaced as a whole, read again only when they changed, never lost."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from trainer import control
from trainer.control import Poll, Requests


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r\u00fcn \u8dd1" / "control.json"


@pytest.mark.parametrize(
    "requests",
    [Requests(), Requests(stop=True), Requests(pause=True, save=3, sample=2), Requests(stop=True, keep=True)],
)
def test_requests_come_back(path: Path, requests: Requests) -> None:
    control.write(path, requests)
    assert control.read(path) == requests
    assert Poll(path)() == requests


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", Requests()),
        (b"{", Requests()),
        (b"[]", Requests()),
        (b"5", Requests()),
        (b"\xff\xfe", Requests()),
        (b"{}", Requests()),
        (b'{"stop": true, "dance": 1}', Requests(stop=True)),
        (b'{"stop": "yes", "save": 2}', Requests(save=2)),
        (b'{"stop": 1, "save": true}', Requests(stop=True, save=1)),
        (b'{"save": null, "pause": true}', Requests(pause=True)),
    ],
)
def test_what_is_not_ours_asks_for_nothing(path: Path, content: bytes, expected: Requests) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert control.read(path) == expected
    assert Poll(path)() == expected


def test_no_file_asks_for_nothing(path: Path) -> None:
    assert control.read(path) == Requests()
    assert Poll(path)() == Requests()


def test_the_file_is_read_again_only_when_it_was_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control.write(path, Requests(save=1))
    reads = []
    parse = control._parse
    monkeypatch.setattr(control, "_parse", lambda content: reads.append(content) or parse(content))
    poll = Poll(path)
    for _ in range(3):
        assert poll() == Requests(save=1)
    assert len(reads) == 1
    control.write(path, Requests(save=2))
    assert poll() == Requests(save=2)
    assert len(reads) == 2


def test_a_request_stands_while_the_file_cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while it is replaced: a pause must not flicker off, a stop not vanish."""
    control.write(path, Requests(pause=True))
    poll = Poll(path)
    assert poll() == Requests(pause=True)
    control.write(path, Requests(stop=True))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "in use")))
        assert poll() == Requests(pause=True)
    assert poll() == Requests(stop=True)
    path.unlink()
    assert poll() == Requests(stop=True)


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    control.write(path, Requests())
    done = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        while not done.is_set():
            with contextlib.suppress(PermissionError):  # Windows, while it is replaced
                seen.add(path.read_text(encoding="utf-8"))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(60):
        control.write(path, Requests(stop=bool(number % 2), save=10 ** (number % 9)))
    done.set()
    reader.join()
    assert all(set(json.loads(text)) == set(asdict(Requests())) for text in seen)
    assert os.listdir(path.parent) == ["control.json"]


def test_the_hosts_wish_and_a_persons_do_not_end_each_other(path: Path) -> None:
    control.write(path, Requests(pause=True, save=1))
    assert control.change(path, lambda asked: replace(asked, give_way=True)).rests
    assert control.change(path, lambda asked: replace(asked, give_way=False)) == Requests(pause=True, save=1)
    control.change(path, lambda asked: replace(asked, pause=False, give_way=True))
    assert Poll(path)().rests
    assert not Requests(pause=True, give_way=True, stop=True).rests, "a stop is not waited for"


def test_no_change_is_lost_among_threads(path: Path) -> None:
    def ask() -> None:
        for _ in range(50):
            control.change(path, lambda asked: replace(asked, save=asked.save + 1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert control.read(path) == Requests(save=200)
