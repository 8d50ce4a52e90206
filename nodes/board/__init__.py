"""TensorBoard for the runs: one process, started when it is first asked for, that ends with this one however it ends.

It listens on this machine alone. tensorboard is optional: it need not be installed.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from ...trainer.errors import HostError
from ..runner import NO_WINDOW

PROGRAM = Path(__file__).with_name("program.py")
HOST = "127.0.0.1"
PATIENCE = 90.0  # seconds for it to answer: its first start on a slow disk takes long
PAUSE = 0.1
LAST = 2000  # characters of what it said before it ended


class Board:
    """The process, or none yet. ``url`` may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._root, self._port = Path(), 0

    def url(self, root: Path) -> str:
        """The address of a TensorBoard that shows the logs below a folder, which answers by then.

        Raises:
            HostError: tensorboard is not installed, or does not start.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None or self._root != root:
                self.stop()
                self._start(root)
            return f"http://{HOST}:{self._port}/"

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _start(self, root: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise HostError(
                "tensorboard is not installed in ComfyUI's Python",
                "pip install tensorboard; what is trained from then on is written for it",
            )
        port = _free_port()
        options = {"logdir": root, "host": HOST, "port": port, "window_title": "LoRA Darkroom", "reload_interval": 10}
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), *(f"--{name}={value}" for name, value in options.items())],
                stdin=subprocess.PIPE,  # its lifeline: the system closes it when this process ends
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=root,
                env={**os.environ, "PYTHONUTF8": "1"},
                creationflags=NO_WINDOW,
                start_new_session=True,
            )
            self._process, self._root, self._port = process, root, port
            deadline = time.monotonic() + PATIENCE
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise HostError("TensorBoard does not start", f"it said: {_end(log) or 'nothing'}")
                time.sleep(PAUSE)


def has_logs(folder: Path) -> bool:
    """Whether anything of a run was written for TensorBoard."""
    return any((folder / "logs").glob("events.out.tfevents.*"))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex((HOST, port)) == 0


def _end(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode("utf-8", errors="replace")[-LAST:].strip()
