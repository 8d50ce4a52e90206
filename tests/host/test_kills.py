"""Killed at random, alternately the worker and ComfyUI: nothing is lost but the steps since the last checkpoint.

DARKROOM_LONG=1 DARKROOM_KILLS=30 python -m pytest tests/host/test_kills.py is the long form.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.host.accidents import WHOLE_RUN, new_run, starts, told, unbroken, wait_for, workers
from tests.host.graphs import Graph, demo_loader, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, failure
from trainer import checkpoint, events
from trainer.events import RunFinished, Step

KILLS = int(os.environ.get("DARKROOM_KILLS", "3"))
pytestmark = [pytest.mark.host, pytest.mark.timeout(200 * KILLS)]
SAVE_EVERY = 4
MOST_STEPS = 8  # between two kills


def graph() -> Graph:
    """As many steps as all kills can need, and some more."""
    epochs = (KILLS * MOST_STEPS + 20) // 3
    return {**demo_loader(), **training(training_seed=110, epochs=epochs, save_steps=SAVE_EVERY)}


def done(run: Path) -> int:
    """The last step that was told and not lost since."""
    story = events.history(run / "events.jsonl")
    return max((event.step for event in story if isinstance(event, Step)), default=0)


@pytest.mark.long
def test_killed_at_random_the_run_goes_on_and_ends_as_if_unbroken(
    start_comfy: Callable[..., ComfyServer], tmp_path: Path
):
    rng = random.Random(int(os.environ.get("DARKROOM_SEED", "0")))
    server = start_comfy()
    runs(server).mkdir(parents=True, exist_ok=True)
    run: Path | None = None
    for kill in range(KILLS):
        begun = 0 if run is None else len(starts(run))
        prompt = server.queue(graph())
        run = run or new_run(server, set())
        saved = checkpoint.latest(run) or 0
        further = rng.randint(0, MOST_STEPS)
        wait_for(lambda run=run: workers(run), "the worker")
        if further:  # else it is killed while it starts
            wait_for(lambda run=run, begun=begun: len(starts(run)) > begun, "the training")
            wait_for(lambda run=run, step=saved + further: done(run) >= step, f"step {saved + further}")
        time.sleep(rng.random() * 0.3)
        reached = max(done(run), saved) if further else saved
        if kill % 2 == 0:
            for process in workers(run):
                os.kill(process, signal.SIGKILL)
            died = failure(server.wait(prompt))
            assert died is not None
            assert "exit code -9" in died["exception_message"]
            assert (checkpoint.latest(run) or 0) >= reached - SAVE_EVERY
        else:
            server.kill()
            wait_for(lambda run=run: not workers(run), "the end of the worker")
            assert (checkpoint.latest(run) or 0) >= reached, "the worker ends its step and saves"
            server.start()
        assert (checkpoint.latest(run) or 0) >= saved
    assert run is not None
    assert run_id(server.run(graph(), limit=WHOLE_RUN)) == run.name
    assert isinstance(told(run)[-1], RunFinished)
    ours, whole = load_file(run / f"{run.name}.safetensors"), unbroken(run, server, tmp_path)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
