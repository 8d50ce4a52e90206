"""TensorBoard answers on this machine alone, one process for all who ask, which ends with the one that began it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPO

pytest.importorskip("tensorboard")
LIMIT = 60


@pytest.fixture
def board(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("board")


@pytest.fixture
def started(board: Any) -> Iterator[Any]:
    one = board.Board()
    yield one
    one.stop()


def test_it_shows_the_runs_and_is_started_once(started: Any, tmp_path: Path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "0123456789ab" / "logs"))
    writer.add_scalar("train/loss", 0.5, 1)
    writer.close()
    address = started.url(tmp_path)
    assert address.startswith("http://127.0.0.1:")
    assert started.url(tmp_path) == address
    deadline = time.monotonic() + LIMIT
    while b"0123456789ab" not in urllib.request.urlopen(f"{address}data/runs", timeout=LIMIT).read():
        assert time.monotonic() < deadline, "the run is not shown"
        time.sleep(0.2)


def test_it_ends_with_whoever_began_it(board: Any, tmp_path: Path):
    """Even by a kill, which lets nobody clean up."""
    code = f"""
import importlib, sys, time, types
from pathlib import Path
for name, folder in (("pack", {str(REPO)!r}), ("pack.nodes", {str(REPO / "nodes")!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
print(importlib.import_module("pack.nodes.board").Board().url(Path({str(tmp_path)!r})), flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPO)
    assert owner.stdout is not None
    port = int(owner.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + LIMIT
    while _answers(port):
        assert time.monotonic() < deadline, "it outlives the process that began it"
        time.sleep(0.1)


def test_a_run_without_logs_is_known(board: Any, tmp_path: Path):
    assert not board.has_logs(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.out.tfevents.1.host.1.0").write_bytes(b"")
    assert board.has_logs(tmp_path)


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
