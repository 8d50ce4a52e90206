"""Works through the queue of runs in a thread: one worker at a time, which gives the card to every prompt.

Knows nothing of ComfyUI: what it needs of it is a ``Host``. Of several ComfyUIs on one user folder one has the queue's
lock, and works; when it ends, another goes on. The worker of a ComfyUI that has ended hears the end of its pipe, saves
and ends, and its run is still the first in the queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from ..trainer import control, job, runfolder
from ..trainer.errors import DarkroomError, RunError, RunFolderError, in_a_line
from ..trainer.events import Event, Phase, RunFailed
from ..trainer.lock import held, locked
from . import runner
from .runqueue import RunQueue

log = logging.getLogger("lora-darkroom")
WORKING = "queue.lock"  # held by the ComfyUI that works through the queue
POLL_SECONDS = 0.1
OTHERS_SECONDS = 2.0  # between two looks whether the queue's lock is free
GIVE_WAY_SECONDS = 60.0  # that a prompt waits for the card at most: a worker that is loading hears nothing


class Follower(Protocol):
    """Follows a run for the page."""

    def __call__(self) -> None:
        """Called all the time."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class Host(Protocol):
    """What is needed of ComfyUI."""

    def busy(self) -> bool:
        """Whether a prompt is being executed, or waits."""
        ...

    def interrupted(self) -> bool:
        """Whether the user has cancelled the prompt that is being executed."""
        ...

    def leave_card(self) -> None:
        """Have ComfyUI's models leave the card, where one is free to do so; returns when they have."""
        ...

    def watch(self, on: bool) -> None:
        """Whether ``before_prompt`` and ``after_prompt`` are to be called."""
        ...

    def follow(self, folder: Path) -> Follower:
        """Follow a run for the page."""
        ...

    def ended(self, folder: Path, end: Event | DarkroomError) -> None:
        """A run has ended: by itself, or by a failure."""
        ...

    def plain(self, folder: Path, text: str) -> str:
        """A text of a run, without what is not for pages."""
        ...


class _Stopped(Exception):
    """The run is to leave the queue."""


class Foreman:
    """Args:
    queue: the runs.
    root: the folder of all runs.
    host: ComfyUI.
    changed: told when another run is at work, or it pauses.
    work: as ``runner.work``.
    """

    def __init__(
        self,
        queue: RunQueue,
        root: Path,
        host: Host,
        changed: Callable[[], None],
        work: Callable[[Path, Callable[[Event], None], Callable[[], None]], Event] = runner.work,
    ) -> None:
        self._queue, self._root, self._host, self._changed, self._work = queue, root, host, changed, work
        self._state = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._prompts: set[str] = set()
        self._running: str | None = None
        self._stopping = self._resting = self._resuming = False

    # From other threads

    def begin(self) -> None:
        """See to it that the queue is worked through."""
        with self._state:
            if self._thread is None and self._queue.read().runs:
                self._thread = threading.Thread(target=self._labour, name="LoRA Darkroom's queue", daemon=True)
                self._thread.start()

    def add(self, run: str) -> None:
        """Put a run, of which everything is prepared, into the queue."""
        self._queue.add(run)
        self.begin()

    def remove(self, run: str) -> None:
        """Take a run out of the queue; the one at work saves, and leaves it then."""
        with self._state:
            if run == self._running:
                self._stopping = True
                return
        self._queue.remove(run)

    def take(self, run: str, check: Callable[[], None]) -> None:
        """Take a run out of the queue, and wait until nobody works on it. ``check`` may end the waiting by raising."""
        self.remove(run)
        while self._running == run:
            check()
            time.sleep(POLL_SECONDS)

    def move(self, run: str, by: int) -> None:
        """Let a waiting run come earlier (-1) or later (1)."""
        if run != self._running:
            self._queue.move(run, by, self._running)

    def told(self) -> dict[str, Any]:
        """``running`` (a run, or None), ``paused``, ``waiting`` (runs, in order), ``failed`` and ``note``."""
        listed, running = self._queue.read(), self._running
        if running is None and listed.runs and held(self._root / listed.runs[0]):
            running = listed.runs[0]  # another ComfyUI works on it, or the worker of a former one saves
        return {
            "running": running,
            "paused": running is not None and self._resting,
            "waiting": [run for run in listed.runs if run != running],
            "failed": [asdict(one) for one in listed.failed],
            "note": listed.note,
        }

    def works_on(self, run: str) -> bool:
        """Whether a run is being trained now."""
        return self._running == run

    # From the thread that executes prompts

    def before_prompt(self, prompt: str) -> None:
        """A prompt begins when the run at work has left the card, that takes too long, or the prompt is cancelled."""
        deadline = time.monotonic() + GIVE_WAY_SECONDS
        with self._state:
            self._prompts.add(prompt)
            run = self._running

            def wait_while(what: Callable[[], bool]) -> None:
                while what() and self._running == run and time.monotonic() < deadline and not self._host.interrupted():
                    self._state.wait(POLL_SECONDS)

            if run is None:
                return
            wait_while(lambda: self._resuming)
            if self._running == run:
                self._give_way(run, True)
            wait_while(lambda: not self._resting)
            if self._running == run and not self._resting and not self._host.interrupted():
                log.warning("the run %s is still busy: the prompt begins beside it", run)

    def after_prompt(self, prompt: str) -> None:
        """A prompt has ended. The thread sees whether another one waits."""
        with self._state:
            self._prompts.discard(prompt)

    def _give_way(self, run: str, on: bool) -> control.Requests:
        return control.change(self._root / run / "control.json", lambda asked: replace(asked, give_way=on))

    # The thread

    def _labour(self) -> None:
        while True:
            try:
                with locked(self._queue.folder, WORKING):
                    while runs := self._queue.read().runs:
                        self._host.watch(True)
                        self._turn(runs[0])
            except RunFolderError:  # another ComfyUI works
                time.sleep(OTHERS_SECONDS)
            except Exception:
                log.exception("the queue of runs cannot be worked through")
                time.sleep(OTHERS_SECONDS)
            with self._state:
                if not self._queue.read().runs:
                    self._host.watch(False)
                    self._prompts.clear()
                    self._thread = None
                    return

    def _turn(self, run: str) -> None:
        """Train the first run of the queue, if nothing speaks against it now."""
        folder = self._root / run
        if self._needed() or held(folder):  # a prompt; the worker of a ComfyUI that has ended saves
            time.sleep(POLL_SECONDS)
            return
        try:
            if _over(folder):
                self._queue.remove(run)
                return
            with ExitStack() as lock:
                try:
                    lock.enter_context(locked(folder, "host.lock"))
                except RunFolderError:  # a graph of another ComfyUI prepares the run
                    time.sleep(OTHERS_SECONDS)
                    return
                self._host.leave_card()
                self._train(run, folder)
        except DarkroomError as error:
            self._failed(run, folder, error)
        except Exception as error:
            log.exception("the run %s", run)
            self._failed(run, folder, RunError(in_a_line(error), "see ComfyUI's log"))

    def _needed(self) -> bool:
        """Whether a prompt needs the card."""
        return bool(self._prompts) or self._host.busy()

    def _train(self, run: str, folder: Path) -> None:
        with self._state:
            if self._needed() or self._queue.read().runs[:1] != [run]:
                return
            self._stopping = self._resting = self._resuming = False
            self._running = run
        self._changed()
        follow = self._host.follow(folder)

        def check() -> None:
            follow()
            self._share(run, folder)
            if self._stopping:  # once: a second time would end it without saving
                self._stopping = False
                raise _Stopped

        try:
            end = self._work(folder, self._hear, check)
            if isinstance(end, RunFailed):
                raise runner.failure(end)
            self._host.ended(folder, end)
            self._queue.remove(run)
        except _Stopped:
            self._queue.remove(run)
        finally:
            with suppress(OSError):
                follow.close()
            with self._state:
                self._running, self._resting = None, False
                self._state.notify_all()
            self._changed()

    def _hear(self, event: Event) -> None:
        if not isinstance(event, Phase):
            return
        with self._state:
            rested = self._resting
            self._resting, self._resuming = event.name == "paused", False
            self._state.notify_all()
        if rested != self._resting:
            self._changed()

    def _share(self, run: str, folder: Path) -> None:
        """Give the card to prompts, and take it back; called all the time."""
        asked = control.read(folder / "control.json").give_way
        needed = self._needed()
        if needed and not asked and not self._resuming:  # also where a worker that just began has removed the request
            with self._state:
                self._give_way(run, True)
        elif asked and not needed:
            self._host.leave_card()
            with self._state:
                if not self._needed():
                    now = self._give_way(run, False)
                    self._resuming = self._resting and not now.pause  # until it says so

    def _failed(self, run: str, folder: Path, error: DarkroomError) -> None:
        self._queue.fail(run, self._host.plain(folder, error.message), self._host.plain(folder, error.cure))
        self._host.ended(folder, error)


def _over(folder: Path) -> bool:
    """Whether there is nothing left to train.

    Raises:
        DarkroomError: the run's folder, or its job, is gone or damaged.
    """
    if not job.exists(folder):
        raise RunError("the run's folder is gone", "queue its graph again")
    found = job.load(folder)
    total = runfolder.total_steps(found)
    return runfolder.finished(folder, total, found.config.early_stopping_patience) is not None
