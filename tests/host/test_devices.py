"""Train LoRA on several devices: here two processes on the CPU, from the graph of a real ComfyUI."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host.accidents import reach, starts, told, wait_for, workers
from tests.host.graphs import Graph, demo_loader, training
from tests.host.measure import empty_queue, run_id, runs
from tests.host.server import ComfyServer, failure
from tests.host.test_background import executed, has_finished, until
from tests.host.test_train_panel import control, count, new_run_of
from trainer.events import Checkpoint, RunStarted, Sample, Step

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a process a core, and there is one"),
]
WITHIN = 30  # seconds: until all have ended where one has


def graph(seed: int, **more: Any) -> Graph:
    """Two times two pictures a step, where more says nothing else."""
    settings: dict[str, Any] = {"epochs": 8, "save_steps": 1000, "sample_every": 1000, "training_seed": seed}
    return {**demo_loader(), **training(**{**settings, "batch_size": 2, "devices": 2, **more})}


def losses(run: Path) -> dict[int, float]:
    return {event.step: event.loss for event in told(run) if isinstance(event, Step)}


def test_two_devices_are_paused_saved_sampled_kept_and_train_what_one_does(comfy: ComfyServer):
    made, before = graph(9101), set(runs(comfy).glob("*"))
    prompt = comfy.queue(made)
    run = new_run_of(comfy, before)
    reach(run, 3)
    (started,) = [event for event in told(run) if isinstance(event, RunStarted)]
    assert (started.processes, started.effective_batch, started.total_steps) == (2, 4, 24)
    assert len(workers(run)) == 2
    control(comfy, run, "pause")
    wait_for(lambda: comfy.get(f"/darkroom/runs/{run.name}/story")["phase"]["name"] == "paused", "the pause")
    paused = count(run, Step)
    for action in ("save", "sample", "resume"):
        control(comfy, run, action)
    wait_for(lambda: count(run, Step) > paused, "steps after the pause")
    wait_for(lambda: count(run, Checkpoint) and count(run, Sample), "a checkpoint and samples")
    control(comfy, run, "keep")
    assert "of 24 steps, and kept" in comfy.wait(prompt)["outputs"]["train"]["text"][0]
    assert not workers(run)

    assert run_id(comfy.run(made)) == run.name
    together = losses(run)
    assert sorted(together) == list(range(1, 25))
    assert len(starts(run)) == 2

    # One process with both batches is the same run, so it is found; and anew it comes to the same.
    alone = graph(9101, batch_size=4, devices=1)
    assert run_id(comfy.run(alone)) == run.name
    assert len(starts(run)) == 2
    shutil.rmtree(run)
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)
    assert run_id(comfy.run(alone)) == run.name
    assert together == pytest.approx(losses(run), rel=1e-4)


@pytest.mark.long
def test_where_one_of_two_is_killed_both_end_and_the_run_goes_on_in_the_background(comfy: ComfyServer):
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph(9102, save_steps=2))
    run = new_run_of(comfy, before)
    reach(run, 3)
    os.kill(max(workers(run)), signal.SIGKILL)
    since = time.monotonic()
    died = failure(comfy.wait(prompt))
    assert time.monotonic() - since < WITHIN
    assert died is not None
    assert "rank 1" in died["exception_message"]
    assert not workers(run)

    made = graph(9102, save_steps=2, when="in the background")
    try:
        _, outputs, _ = executed(comfy, made)
        assert run_id(outputs) == run.name
        until(comfy, has_finished(comfy, run.name))
    finally:
        empty_queue(comfy)
    assert starts(run)[-1] >= 2
    assert [event.processes for event in told(run) if isinstance(event, RunStarted)] == [2, 2]
    assert sorted(losses(run)) == list(range(1, 25))


def test_more_devices_than_there_are_is_told_with_the_cure(comfy: ComfyServer):
    there = os.cpu_count()
    died = failure(comfy.wait(comfy.queue(graph(9103, devices=64))))
    assert died is not None
    assert f"devices: 64 were asked for, and this machine has {there} CPU cores" in died["exception_message"]
    assert f"set devices to at most {there}" in died["exception_message"]
