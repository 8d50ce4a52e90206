"""Comparing what the server computed with what we compute."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import torch

from tests.host.server import ComfyServer, PromptFailed, failure


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def run_id(outputs: dict[str, Any]) -> str:
    """The run's id, as Train LoRA shows it."""
    (text,) = outputs["train"]["text"]
    (found,) = re.findall(r"^run ([0-9a-f]{12})$", text, re.MULTILINE)
    return found


def runs(comfy: ComfyServer) -> Path:
    """Where the server keeps its runs."""
    return comfy.base / "user" / "__lora_darkroom" / "runs"


def empty_queue(comfy: ComfyServer) -> None:
    """Take every run out of the queue of those in the background, and wait until the one at work is saved."""
    told = comfy.get("/darkroom/queue")
    for run in (*told["waiting"], told["running"], *(one["run"] for one in told["failed"])):
        if run:
            comfy.post("/darkroom/queue", {"action": "remove", "run": run})
    deadline = time.monotonic() + 120
    while comfy.get("/darkroom/queue")["running"]:
        assert time.monotonic() < deadline, comfy.log()[-3000:]
        time.sleep(0.2)


def planned_run(comfy: ComfyServer, graph: dict[str, Any]) -> str:
    """The id of the run that a graph would train. It is stopped, at once and unsaved, when it is planned."""

    def jobs() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in runs(comfy).glob("*/job.yaml")}

    before = jobs()
    prompt = comfy.queue(graph)
    deadline = time.monotonic() + 120
    while not (entry := comfy.get(f"/history/{prompt}").get(prompt)):
        assert time.monotonic() < deadline, comfy.log()[-3000:]
        if jobs() != before:
            comfy.request("/interrupt", {})
        time.sleep(0.1)
    written = [name for name, when in jobs().items() if before.get(name) != when]
    if written:
        return written[0]
    if entry["status"]["status_str"] != "success":
        raise PromptFailed("the prompt failed", failure(entry) or entry["status"])
    return run_id(entry["outputs"])
