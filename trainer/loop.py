"""The training loop: a page, read from top to bottom. Events go out, requests come in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from . import memory
from .books import Books, Clock, next_rate
from .checkpoint import Position
from .control import Requests
from .events import Event
from .step import step
from .training import Training


class Studio(Protocol):
    """What the loop asks for between two steps."""

    def validate(self, position: Position) -> bool:
        """Measures the objective on the fixed set, if that is due. Returns whether training on is of no use."""
        ...

    def validates(self, step: int) -> bool:
        """Whether a validation is due at a step between the first and the last."""
        ...

    def sample(self, position: Position) -> None:
        """Draws the samples."""
        ...

    def save(self, position: Position) -> None:
        """Writes a checkpoint."""
        ...

    def pause(self) -> None:
        """Gives the device back until it is asked to go on, or to stop."""
        ...


def train(run: Training, studio: Studio, requests: Callable[[], Requests], emit: Callable[[Event], None]) -> bool:
    """Trains from ``run.position`` to its total, or until its validations say that this is of no use.

    Returns whether it came to that end; False: it was asked to stop.

    One optimizer step is one window: gradients are divided by the samples (of texts: the tokens) truly in it, the
    schedule and the counter move only when the optimizer did. A window whose gradients overflowed in fp16 is done again
    with a smaller scale; one whose loss is not finite is passed over.

    What is due between two steps stays in ``run.due`` until it is done: if it fails, the run as it then is can go on
    with it.

    Raises:
        DivergedError: too many losses in a row were not finite.
        RunError: fp16 overflowed too many times in a row.
    """
    config, position, books = run.config, run.position, Books(run, emit)
    interrupted = bool(run.due)
    if config.validation_steps and "validate" not in run.due:
        # Before the first step; or where the process ended between a checkpoint and its validation.
        run.due.insert(0, "validate")
    _do_what_is_due(run, studio, books.clock)
    if interrupted and _stopped(run, studio, requests, books):
        return run.enough or position.cursor == position.total

    while not run.enough and position.cursor < position.total:
        epoch, window = run.next_window()
        run.doing = f"training step {books.coming}"
        run.ranks.tell("step", cursor=position.cursor, step=position.step, rate=next_rate(run))
        try:
            taken = step(run, window, epoch, books.rate)
        except Exception as error:
            if memory.ran_out(error):
                error.__traceback__ = None  # its frames hold what was being computed
            with suppress(Exception):
                books.close()  # what was done before it stays done
            run.doing = f"training step {books.coming}"
            raise
        books.open(taken, epoch)
        if taken.known or books.concern(studio.validates):
            books.close()
        before, asked = run.asked, requests()
        if books.are_open and asked == before and not (asked.stop or asked.rests):
            continue  # nothing is to be done: the next step is given to the device before this one is done
        books.close()
        run.asked = asked
        ended = position.cursor == position.total
        stop = run.asked.stop and not ended
        # A stop only saves, so that Cancel is quick.
        due = books.due(position.step, studio.validates) if (books.stepped or ended) and not stop else ()
        # Saved first: a validation or a sample that fails (out of memory) must not cost the steps.
        if position.step != run.saved and ("save" in due or stop or run.asked.save > before.save):
            run.due.append("save")
        if "validate" in due:
            run.due.append("validate")
        if "sample" in due or run.asked.sample > before.sample:
            run.due.append("sample")
        _do_what_is_due(run, studio, books.clock)
        if stop:
            return False
        if run.asked.rests and not (ended or run.enough):
            books.clock.outside(studio.pause)
            if _stopped(run, studio, requests, books):
                return False
    return True


def _stopped(run: Training, studio: Studio, requests: Callable[[], Requests], books: Books) -> bool:
    """Whether it is to stop between two steps; then what it has come to is saved."""
    before, asked = run.asked, requests()
    if not asked.stop:
        return False
    run.asked = asked
    if run.position.step != run.saved:
        run.due.append("save")
    if asked.sample > before.sample:
        run.due.append("sample")
    _do_what_is_due(run, studio, books.clock)
    return True


def _do_what_is_due(run: Training, studio: Studio, clock: Clock) -> None:
    doings = {"save": "saving", "validate": "validating", "sample": "drawing samples"}
    while run.due:
        what = run.due[0]
        run.doing = f"{doings[what]} at step {run.position.step}"
        over = clock.outside(partial(getattr(studio, what), run.position))
        run.due.pop(0)
        if what == "save":
            run.saved = run.position.step
        if what == "validate" and over:  # as at the last step
            run.enough = True
            if run.position.step != run.saved:
                run.due.insert(0, "save")
            if run.config.sample_every and "sample" not in run.due:
                run.due.append("sample")
