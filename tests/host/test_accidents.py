"""Cancel, a killed worker, a killed ComfyUI: nothing is lost but the steps since the last checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.host.graphs import Graph, apply_lora, demo_loader, picture, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, comfy_python, failure, host_environment
from trainer import checkpoint, events
from trainer.events import Event, RunFinished, RunStarted, RunStopped, Step

pytestmark = pytest.mark.host
STEPS, SAVE_EVERY = 36, 5
PATIENCE = 180.0


def graph(seed: int) -> Graph:
    """36 steps, saved every 5, told every one."""
    return {**demo_loader(), **training(training_seed=seed, epochs=STEPS // 3, save_steps=SAVE_EVERY)}


def wait_for(what: Callable[[], Any], why: str) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited in vain for {why}"
        time.sleep(0.1)
    return answer


def new_run(comfy: ComfyServer, before: set[Path]) -> Path:
    """The folder of the run that has just begun."""
    return wait_for(lambda: set(runs(comfy).glob("*")) - before, "a run").pop()


def told(run: Path) -> list[Event]:
    return events.read(run / "events.jsonl")[0]


def reach(run: Path, step: int) -> None:
    """Wait until a run has done some steps."""
    wait_for(lambda: any(isinstance(e, Step) and e.step >= step for e in told(run)), f"step {step}")


def workers(run: Path) -> list[int]:
    """Process ids of workers on a run folder, zombies excluded."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(run) in command:
            found.append(int(process.name))
    return found


def unbroken(run: Path, comfy: ComfyServer, folder: Path) -> dict[str, torch.Tensor]:
    """The LoRA of the same job, trained by one process without a break."""
    fresh = folder / run.name
    fresh.mkdir()
    for name in ("job.yaml", "dataset.jsonl"):
        shutil.copy(run / name, fresh)
    command = [comfy_python(comfy.comfy), str(comfy.pack / "train.py"), "--job", str(fresh)]
    # The pipe stays open: its end would be a wish to stop.
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=host_environment(comfy.comfy)) as process:
        wait_for(lambda: process.poll() is not None, "the unbroken run")
    assert process.returncode == 0
    return load_file(fresh / f"{run.name}.safetensors")


def starts(run: Path) -> list[int]:
    return [event.step for event in told(run) if isinstance(event, RunStarted)]


def test_cancel_and_a_killed_worker_lose_nothing(comfy: ComfyServer, tmp_path: Path):
    runs(comfy).mkdir(parents=True, exist_ok=True)
    before = set(runs(comfy).glob("*"))

    prompt = comfy.queue(graph(101))
    run = new_run(comfy, before)
    reach(run, 2)
    comfy.request("/interrupt", {})
    entry = comfy.wait(prompt)
    interrupted = failure(entry)
    assert interrupted is not None
    assert interrupted["kind"] == "execution_interrupted"
    stopped = told(run)[-1]
    assert isinstance(stopped, RunStopped)
    assert checkpoint.latest(run) == stopped.step >= 2
    assert not workers(run)

    prompt = comfy.queue(graph(101))
    reach(run, stopped.step + SAVE_EVERY + 1)
    (worker,) = workers(run)
    os.kill(worker, signal.SIGKILL)
    died = failure(comfy.wait(prompt))
    assert died is not None
    assert died["node_type"] == "Darkroom_TrainLoRA"
    assert "exit code -9" in died["exception_message"]
    assert "queue again" in died["exception_message"]

    finished = comfy.run({**graph(101), "apply": apply_lora(), **picture(model=["apply", 0])})
    assert run_id(finished) == run.name
    assert finished["picture"]["images"]
    begun = starts(run)
    assert begun[:2] == [0, stopped.step]
    assert begun[2] % SAVE_EVERY == 0
    assert begun[2] > stopped.step
    ours, whole = load_file(run / f"{run.name}.safetensors"), unbroken(run, comfy, tmp_path)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_cancel_while_the_worker_still_starts(comfy: ComfyServer):
    runs(comfy).mkdir(parents=True, exist_ok=True)
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph(102))
    run = new_run(comfy, before)
    wait_for(lambda: workers(run), "the worker")
    comfy.request("/interrupt", {})
    assert (failure(comfy.wait(prompt)) or {})["kind"] == "execution_interrupted"
    assert not workers(run)
    assert (checkpoint.latest(run) or 0) <= 2


def test_a_killed_server_and_the_one_after_it(start_comfy: Callable[..., ComfyServer]):
    server = start_comfy()
    runs(server).mkdir(parents=True, exist_ok=True)
    server.queue(graph(103))
    run = new_run(server, set())
    reach(run, 2)
    server.kill()
    wait_for(lambda: not workers(run), "the end of the worker")
    stopped = told(run)[-1]
    assert isinstance(stopped, RunStopped)
    assert checkpoint.latest(run) == stopped.step

    server = start_comfy()
    finished = server.run(graph(103))
    assert run_id(finished) == run.name
    assert starts(run) == [0, stopped.step]
    assert isinstance(told(run)[-1], RunFinished)
    server.stop()

    server = start_comfy()
    began = time.monotonic()
    assert run_id(server.run(graph(103))) == run.name
    assert time.monotonic() - began < 15
    assert starts(run) == [0, stopped.step]
