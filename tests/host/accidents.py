"""Watching runs and their workers from outside, as tests of accidents need it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.host.measure import runs
from tests.host.server import ComfyServer, comfy_python, host_environment
from trainer import events
from trainer.events import Event, RunStarted, Step

PATIENCE = 180.0
WHOLE_RUN = 1800.0  # seconds that a run of some hundred steps may take where others work beside it


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
        assert process.wait(WHOLE_RUN) == 0
    return load_file(fresh / f"{run.name}.safetensors")


def starts(run: Path) -> list[int]:
    return [event.step for event in told(run) if isinstance(event, RunStarted)]
