"""The worker process: started, followed, stopped. Knows nothing of ComfyUI; the caller says when to stop.

Training never runs inside ComfyUI's own process: a crash, a leak or a full card of the worker cannot take it down,
and all memory comes back at the end. The pipe on the worker's stdin is its lifeline: when it ends, the worker
finishes its step, saves, and ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..trainer import control, events
from ..trainer.errors import DarkroomError, RunError, UserError, WorkerError
from ..trainer.events import Event, RunFailed

logger = logging.getLogger("lora-darkroom")
PROGRAM = Path(__file__).resolve().parents[1] / "train.py"
POLL_SECONDS = 0.1
END_SECONDS = 60.0
LOG_LINES = 30
NO_WINDOW = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0


def command(run: Path, what: str = "--job") -> list[str]:
    """The worker's command line. Started as a file: portable builds ignore the working directory."""
    return [sys.executable, str(PROGRAM), what, str(run)]


def environment(inherited: Mapping[str, str], *, online: bool = False) -> dict[str, str]:
    """The worker's environment: UTF-8, offline unless a download was asked for, and an allocator of its own choice."""
    own = dict(inherited)
    # ComfyUI sets cudaMallocAsync for itself; it fragments under training, and a child would inherit it.
    allocator = "backend:native" if sys.platform == "win32" else "backend:native,expandable_segments:True"
    own["PYTORCH_CUDA_ALLOC_CONF"] = own["PYTORCH_ALLOC_CONF"] = allocator
    own.update(PYTHONUTF8="1", PYTHONIOENCODING="utf-8", TOKENIZERS_PARALLELISM="false")
    if not online:
        own["HF_HUB_OFFLINE"] = "1"
    return own


def work(
    run: Path,
    on_event: Callable[[Event], None],
    check: Callable[[], None],
    arguments: Sequence[str] | None = None,
    *,
    online: bool = False,
    cure: str = "queue again: the run goes on from its last checkpoint",
) -> Event:
    """Runs the worker on a run folder to its end.

    Args:
        run: the run folder, with its job.
        on_event: told every event, in order.
        check: called all the time; what it raises stops the worker (the step is ended and saved) and is raised
            again when the worker has ended. Raising a second time ends the worker at once.
        arguments: the command line, if not ``command(run)``.
        online: whether it may download.
        cure: what to do if it dies.

    Returns:
        The terminal event.

    Raises:
        WorkerError: the worker ended without one; with the end of its log.
    """
    journal = run / "events.jsonl"
    offset = journal.stat().st_size if journal.exists() else 0
    log = run / "log.txt"
    outcome: Event | None = None

    def read() -> None:
        nonlocal offset, outcome
        found, offset = events.read(journal, offset)
        for event in found:
            on_event(event)
            outcome = event if event.terminal else outcome

    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments or command(run),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=run,
            env=environment(os.environ, online=online),
            creationflags=NO_WINDOW,
            # A Ctrl-C in ComfyUI's console must not reach it too: beside the end of the pipe it would be a second
            # wish, to end without saving.
            start_new_session=True,
        )
    try:
        while process.poll() is None and outcome is None:
            check()
            time.sleep(POLL_SECONDS)
            read()
        _wait(process, END_SECONDS)
        read()
    except BaseException:
        _stop(process, run, read, check)
        raise
    finally:
        _kill(process)
    if outcome is None:
        raise WorkerError(
            f"the worker process ended (exit code {process.returncode}) without saying how; the end of {log}:\n"
            + log_tail(log),
            cure,
        )
    return outcome


def failure(end: RunFailed, cure: str = "") -> DarkroomError:
    """A worker's failure as the node's error; what is for developers goes to the log.

    Args:
        end: as the worker told it.
        cure: where it told none.
    """
    if end.details:
        logger.error(end.details)
    return (UserError if end.user else RunError)(end.message, end.cure or cure)


def log_tail(log: Path) -> str:
    """The last lines of a log file."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _stop(process: subprocess.Popen[bytes], run: Path, read: Callable[[], None], check: Callable[[], None]) -> None:
    """Ask the worker to save and end, and wait for it; a second wish to stop ends it at once."""
    with contextlib.suppress(OSError):  # the end of the pipe says the same
        control.write(run / "control.json", control.Requests(stop=True))
    _close_pipe(process)  # a worker that is still starting removes old requests, but hears this one
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            read()
            check()
    except BaseException:
        process.kill()


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a worker that has said its last word."""
    _close_pipe(process)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened, leave no process behind."""
    _close_pipe(process)
    if process.poll() is None:
        process.kill()
    process.wait()
