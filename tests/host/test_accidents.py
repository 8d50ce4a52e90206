"""Cancel, a killed worker, a killed ComfyUI: nothing is lost but the steps since the last checkpoint."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.host.accidents import new_run, reach, starts, told, unbroken, wait_for, workers
from tests.host.graphs import Graph, apply_lora, demo_loader, picture, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, PromptFailed, failure
from trainer import checkpoint
from trainer.events import RunFinished, RunStopped

pytestmark = pytest.mark.host
STEPS, SAVE_EVERY = 21, 4


def graph(seed: int) -> Graph:
    """21 steps, saved every 4, told every one."""
    return {**demo_loader(), **training(training_seed=seed, epochs=STEPS // 3, save_steps=SAVE_EVERY)}


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
    assert run_id(server.run(graph(103))) == run.name
    assert starts(run) == [0, stopped.step]


RESTART = """
import os, sys
from server import PromptServer

@PromptServer.instance.routes.post("/restart_as_manager_does")
async def restart(request):
    os.execv(sys.executable, [sys.executable, *sys.argv])

NODE_CLASS_MAPPINGS = {}
"""


@pytest.mark.long
def test_two_servers_on_one_user_folder(start_comfy: Callable[..., ComfyServer], tmp_path: Path):
    one = start_comfy()
    (one.base / "custom_nodes" / "restart.py").write_text(RESTART, encoding="utf-8")
    two = start_comfy()
    runs(one).mkdir(parents=True, exist_ok=True)

    prompts = [server.queue(graph(105)) for server in (one, two)]  # at the same time
    run = new_run(one, set())
    behind = one.queue({**demo_loader(), **training(training_seed=106)})
    ends = [failure(server.wait(prompt)) for server, prompt in zip((one, two), prompts, strict=True)]
    (refused,) = [end for end in ends if end is not None]
    assert refused["node_type"] == "Darkroom_TrainLoRA"
    assert "another process is training in" in refused["exception_message"]
    assert "queue again" in refused["exception_message"]
    assert starts(run) == [0]

    other = run_id(one.wait(behind)["outputs"])  # what was queued behind is trained afterwards
    assert other != run.name
    for server in (one, two):  # A after B, and where it was refused: it is there already
        assert run_id(server.run(graph(105))) == run.name
    assert starts(run) == [0]
    ours, whole = load_file(run / f"{run.name}.safetensors"), unbroken(run, one, tmp_path)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)

    # A restart as ComfyUI-Manager does it: the process id survives, the pipe to the worker does not.
    before = set(runs(two).glob("*"))
    two.queue(graph(107))
    run = new_run(two, before)
    reach(run, 2)
    with pytest.raises(OSError, match=r"closed|reset"):
        two.request("/restart_as_manager_does", {})
    wait_for(lambda: not workers(run), "the end of the worker")
    stopped = told(run)[-1]
    assert isinstance(stopped, RunStopped)
    assert checkpoint.latest(run) == stopped.step
    wait_for(lambda: answers(two), "the restarted server")
    assert run_id(two.run(graph(107))) == run.name
    assert starts(run) == [0, stopped.step]


def answers(server: ComfyServer) -> bool:
    try:
        server.get("/system_stats")
    except OSError:
        return False
    return True


def test_a_file_that_the_disk_does_not_take(comfy: ComfyServer, tmp_path: Path):
    runs(comfy).mkdir(parents=True, exist_ok=True)
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph(108))
    run = new_run(comfy, before)
    reach(run, SAVE_EVERY + 1)
    (worker,) = workers(run)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (50_000, 50_000))  # its journal fits, a checkpoint does not
    failed = failure(comfy.wait(prompt))
    assert failed is not None
    assert "safetensors: File too large" in failed["exception_message"]
    assert "queue again" in failed["exception_message"]
    saved = checkpoint.latest(run) or 0
    assert saved >= SAVE_EVERY
    assert run_id(comfy.run(graph(108))) == run.name
    assert starts(run) == [0, saved]
    ours, whole = load_file(run / f"{run.name}.safetensors"), unbroken(run, comfy, tmp_path)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


@pytest.fixture
def small_disk(comfy: ComfyServer) -> Iterator[Callable[[Path], None]]:
    """Put a disk of 3 MB under a folder; only root can."""
    mounted: list[Path] = []

    def mount(folder: Path, options: str = "size=3m") -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_and_a_read_only_disk(comfy: ComfyServer, small_disk: Callable[[Path], None]):
    folder = runs(comfy)
    folder.mkdir(parents=True, exist_ok=True)
    small_disk(folder)
    with pytest.raises(PromptFailed) as caught:
        comfy.run(graph(109))
    message = caught.value.details["exception_message"]
    assert "No space left on device" in message or "is full" in message
    (run,) = folder.glob("*")
    saved = checkpoint.latest(run)
    assert saved
    assert load_file(checkpoint.folder_of(run, saved) / "lora.safetensors")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with pytest.raises(PromptFailed, match="cannot be written: Read-only file system"):
        comfy.run(graph(109))
    subprocess.run(["mount", "-o", "remount,rw,size=64m", folder], check=True)
    assert run_id(comfy.run(graph(109))) == run.name
    assert starts(run)[-1] == saved


def test_pictures_that_go_while_it_trains_are_not_missed(comfy: ComfyServer):
    folder = comfy.base / "input" / "fleeting \u00fc"
    comfy.run({"data": training()["data"], "show": {"class_type": "PreviewAny", "inputs": {"source": ["data", 0]}}})
    shutil.copytree(comfy.base / "input" / "darkroom_demo", folder)
    runs(comfy).mkdir(parents=True, exist_ok=True)
    before = set(runs(comfy).glob("*"))
    fleeting = {**demo_loader(), **training(training_seed=111, epochs=8, folder=folder.name)}
    prompt = comfy.queue(fleeting)
    run = new_run(comfy, before)
    reach(run, 1)
    shutil.rmtree(folder)
    assert failure(comfy.wait(prompt)) is None
    assert isinstance(told(run)[-1], RunFinished)
    with pytest.raises(PromptFailed, match="does not exist"):
        comfy.run({**fleeting, **training(training_seed=112, folder=folder.name)})
