"""The pipe on the worker's stdin: its end is a wish to stop, and while it is open the worker can end in peace."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO

PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from trainer.__main__ import Stop
stop = Stop()
stop.with_stdin()
print("ready", flush=True)
while sys.argv[2] == "wait" and not stop():
    time.sleep(0.05)
print(stop())
"""


def start(mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(REPO), mode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_end_of_the_pipe_is_heard():
    with start("wait") as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == "ready\n"
        worker.stdin.close()
        assert worker.stdout.readline() == "True\n"
        assert worker.wait(30) == 0


def test_an_open_pipe_does_not_keep_the_worker_from_ending():
    with start("end") as worker:
        assert worker.stdout is not None
        assert worker.stdout.read() == "ready\nFalse\n"
        assert worker.wait(30) == 0
