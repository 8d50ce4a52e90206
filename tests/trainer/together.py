"""One process of several, for ``test_many.py``: runs commands one after the other, with a fault in some of them.

    python -m tests.trainer.together '[{"port": 1, "train": ["--config", ...], "fault": "memory", "at": 3}, ...]'

A fault happens in the process whose RANK is 1, where the loss is computed for the ``at``-th time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch

from trainer import assembly, step
from trainer.__main__ import main


def happens(fault: str, loss: torch.Tensor) -> torch.Tensor:
    """What the loss becomes, if anything."""
    if fault == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    if fault == "error":
        raise KeyError("no such thing")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    return loss * float("nan") if fault == "nan" else loss


def one(port: int, train: list[str], fault: str = "", at: int = 0, rank: int = 1) -> int:
    """Runs a command; returns its exit code."""
    os.environ["MASTER_PORT"] = str(port)
    plain, count = step.gradients, 0

    def gradients(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        loss = plain(*arguments)
        return happens(fault, loss) if count == at and int(os.environ["RANK"]) == rank else loss

    step.gradients = gradients
    assembly.sixteen_bits = lambda *_: "no"  # some CPUs could give up half of their bits first; these do not
    try:
        return main(["train", *train])
    finally:
        step.gradients = plain


if __name__ == "__main__":
    print(json.dumps([one(**command) for command in json.loads(sys.argv[1])]))
