"""What memory is taken and what there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO
from trainer import gauge
from trainer.gauge import GB, MARGIN, Gauge

CPU = torch.device("cpu")
MB = 2**20


def test_the_peak_is_the_process_s_own_whoever_started_it() -> None:
    mine = bytearray(2**30)
    mine[::4096] = b"1" * len(mine[::4096])  # touched, so that it counts
    assert gauge.process_peak() > 2**30
    code = "import torch; from trainer.gauge import process_peak; print(process_peak())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < 2**30


PEAKS = """
import torch
from trainer.gauge import Gauge
MB = 2**20
found = Gauge(torch.device("cpu"))
found.begin()
before = found.most()
with found.piece() as piece:
    first = torch.ones(100 * MB // 4)
    del first
    second = torch.ones(60 * MB // 4)
del second
with found.apart():
    third = torch.ones(300 * MB // 4)
    del third
print(piece[0] / MB, (found.most() - before) / MB)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins a process' peak anew")
def test_a_piece_is_what_it_takes_at_most_and_what_is_apart_does_not_count() -> None:
    # In a process of its own: what others have freed before lies in the heap, and decides where a tensor comes to.
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=REPO, capture_output=True, text=True, check=True)
    piece, whole = map(float, done.stdout.split())
    assert piece == pytest.approx(100, rel=0.1)
    assert whole == pytest.approx(100, rel=0.15)


def test_where_the_system_gives_no_peak_living_tensors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauge, "_CLEAR", Path("/not there/clear_refs"))
    layers = torch.nn.Sequential(*(torch.nn.Linear(512, 512, bias=False) for _ in range(3)))
    x = torch.ones(64, 512)
    row, weights = 64 * 512 * 4, 512 * 512 * 4
    with Gauge(CPU).piece([*layers.parameters(), x]) as piece, torch.no_grad():
        layers(x)
    assert piece[0] == 2 * row  # what goes into a layer, and what comes out
    with Gauge(CPU).piece([*layers.parameters(), x]) as piece:
        layers(x).sum().backward()
    # Each layer's input is kept but the first, which was there; in backward the gradients come.
    assert 3 * weights + row <= piece[0] <= 3 * weights + 5 * row


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("max", "current", "stat")
    files = [tmp_path / name for name in names]
    for file, content in zip(files, (str(3 * GB), str(2 * GB), f"anon 5\ninactive_file {GB // 2}\n"), strict=True):
        file.write_text(content, encoding="ascii")
    monkeypatch.setattr(gauge, "_GROUPS", ((*map(str, files), "inactive_file"),))
    assert gauge.ram_free() == 3 * GB // 2
    files[0].write_text("max\n", encoding="ascii")  # none
    assert gauge.ram_free() > 0
    monkeypatch.setattr(gauge, "_GROUPS", ())
    assert gauge.ram_free() > 0


def test_a_card_s_limit_has_room_for_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a GB of a limit, and of what is free, is left: torch does not count the context."""
    card = torch.device("cuda")
    held: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GB)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, n: held.append((share, n)))
    assert gauge.budget(card) == 65 * GB - MARGIN
    assert gauge.budget(card, 8.0) == 8 * GB - MARGIN
    assert gauge.budget(card, 90.0) == 65 * GB - MARGIN
    gauge.hold_to(card, None)
    gauge.hold_to(CPU, 8.0)
    assert held == []
    gauge.hold_to(card, 8.5)
    gauge.hold_to(torch.device("cuda:1"), 90.0)
    assert held == [(0.1, 3), (1.0, 1)]


def test_what_there_is_includes_what_is_taken_and_stays_below_a_limit() -> None:
    free = gauge.budget(CPU)
    taken = Gauge(CPU).now()
    assert free == pytest.approx(taken + gauge.ram_free() - MARGIN, rel=0.05)
    assert gauge.budget(CPU, 0.25) == GB // 4
