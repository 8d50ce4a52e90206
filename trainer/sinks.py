"""Where events go: the terminal, the log, TensorBoard. The journal, ``events.jsonl``, is in ``events.py``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, TextIO

from . import memory
from .events import (
    Advised,
    Captioned,
    Checkpoint,
    Chosen,
    Event,
    MemoryPlan,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    Validation,
    Warned,
)
from .gauge import GB
from .memory import Plan


def describe(event: Event) -> str:
    """An event as a line for people; empty for those that are only for programs."""
    match event:
        case RunStarted():
            return _started(event)
        case MemoryPlan():
            return _planned(event)
        case Step():
            return (
                f"step {event.step}/{event.total}  loss {event.loss:.4f}  rate {event.lr:.2e}  "
                f"{event.seconds:.2f} s/step  {event.memory / 2**30:.1f} GiB  {clock(event.eta)} left"
            )
        case Validation():
            told = f"step {event.step}  validation ({event.signal.replace('_', ' ')}) {event.loss:.4f}"
            return told + (f", perplexity {event.perplexity:.2f}" if event.perplexity else "")
        case Sample() if event.answer:
            return f"step {event.step}  {event.prompt}\n  -> {event.answer}"
        case Sample():
            return f"step {event.step}  sample {event.image or event.latents}: {event.prompt}"
        case Checkpoint():
            return f"step {event.step}  saved {event.path} (norm of the change {event.change:.3g})"
        case Captioned():
            return f"{event.done}/{event.total}  {clock(event.eta)} left  {event.image}: {event.caption}"
        case Warned():
            return f"warning: {event.message}"
        case Chosen():
            return f"auto: {event.field} {event.value} ({event.why})"
        case Advised():
            return f"{event.kind}: {event.message}" + (f"\n  -> {event.cure}" if event.cure else "")
        case RunFinished():
            early = f", early ({event.stopped})" if event.stopped else ""
            best = f"\nthe best is step {event.best}: {event.reason}" if 0 < event.best < event.step else ""
            return f"finished after {event.step} steps{early}: {event.path}{best}"
        case RunStopped():
            return f"stopped after {event.step} steps ({event.reason})" + "; all of them are saved" * (event.step > 0)
        case RunFailed():
            return f"failed: {event.message}" + (f"\n  -> {event.cure}" if event.cure else "")
    return ""


def _started(event: RunStarted) -> str:
    """All that is known before the first step, on one screen."""
    share = 100 * event.trainable / max(1, event.parameters)
    buckets = ", ".join(f"{count} of {size}" for size, count in event.buckets.items())
    what = "texts" if event.text else "images"
    apart = (f"; of these {event.regularisation} of regularisation" if event.regularisation else "") + (
        f"; {event.held_out} more held out" if event.held_out else ""
    )
    lines = [
        f"{event.name}" + (f": going on from step {event.step}" if event.step else ""),
        f"  {what:<12}{event.images}" + (f": {buckets}" if buckets else "") + apart,
        f"  steps       {event.total_steps} of {event.effective_batch} {what} ({event.epochs} epochs)",
        f"  trained     {event.trainable:,} parameters, {share:.2g} % of {event.parameters:,}"
        + (f"; the file will have {event.file_size / 1e6:.1f} MB" if event.file_size else ""),
        f"  runs on     {event.device} in {event.precision}"
        + (f", in {event.processes} processes" if event.processes > 1 else "")
        + (f", about {clock(event.seconds)} by a trial of the largest size" if event.seconds else ""),
    ]
    return "\n".join(lines)


def _planned(event: MemoryPlan) -> str:
    """What the memory is for, and what would need less of it."""
    plan = Plan(event.process, event.base, event.adapter, event.activations, event.samples, event.free)
    lines = [
        f"  memory      {event.total / GB:.1f} GB of {event.free / GB:.1f}: {memory.parts(plan)}",
        f"  trained in  {event.how}",
    ]
    if event.switches:
        lines.append(f"  would save  {memory.saving(event.switches)}")
    return "\n".join(lines)


def _open(path: Path) -> TextIO:
    # Linux has file names that are no UTF-8, and messages name files.
    return path.open("a", encoding="utf-8", errors="backslashreplace")


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03; ``?`` where they are not known."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Log:
    """A sink that writes lines for people to a stream, or appends them to a file."""

    def __init__(self, target: Path | TextIO) -> None:
        self._stream = _open(target) if isinstance(target, Path) else target

    def __call__(self, event: Event) -> None:
        """Writes the event's line, if it has one; of a failure its details too."""
        line = describe(event)
        if isinstance(event, RunFailed) and event.details:
            line = f"{event.details}\n{line}"
        if isinstance(event, Phase) and event.done == 0:
            line = f"{event.name} ..."
        if line:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes the file; a stream that was given stays open."""
        if self._stream not in (sys.stdout, sys.stderr):
            self._stream.close()


class Bar:
    """A sink that draws progress bars on a terminal and writes the other lines above them."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._name = ""

    def __call__(self, event: Event) -> None:
        """Moves the bar, or writes a line."""
        from tqdm import tqdm

        match event:
            case Phase():
                self._show(event.name, event.done, event.total)
            case Step():
                self._show("training", event.step, event.total, loss=f"{event.loss:.4f}", lr=f"{event.lr:.1e}")
            case Captioned():
                self._show("captions", event.done, event.total)
            case _:
                if event.terminal:
                    self.close()
                if line := describe(event):
                    tqdm.write(line)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, name: str, done: int, total: int, **figures: str) -> None:
        from tqdm import tqdm

        if self._bar is None or name != self._name:
            self.close()
            self._bar, self._name = (
                tqdm(total=total or None, desc=name, dynamic_ncols=True, initial=done),
                name,
            )
        self._bar.n = done
        if figures:
            self._bar.set_postfix(figures, refresh=False)
        self._bar.refresh()


class TensorBoard:
    """A sink that writes losses, rate and samples for TensorBoard.

    Args:
        run: the run folder; logs lie in ``logs`` below it.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run, self._make = run, SummaryWriter
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Writes what TensorBoard can show of the event."""
        if isinstance(event, RunStarted):
            # What a broken run wrote beyond its last checkpoint is not part of the run.
            self._writer = self._make(str(self._run / "logs"), purge_step=event.step + 1 if event.step else 0)
        if self._writer is None or isinstance(event, Phase):
            return
        writer = self._writer
        match event:
            case Step():
                for name in ("loss", "lr", "grad_norm", "seconds"):
                    writer.add_scalar(f"train/{name}", getattr(event, name), event.step)
            case Validation():
                writer.add_scalar(f"validation/{event.signal}", event.loss, event.step)
                for timestep, loss in event.by_timestep.items():
                    writer.add_scalar(f"validation/{event.signal} at {timestep}", loss, event.step)
                if event.perplexity:
                    writer.add_scalar(f"validation/{event.signal} perplexity", event.perplexity, event.step)
            case Sample() if event.answer:
                writer.add_text(f"samples/{event.index}: {event.prompt}", event.answer, event.step)
            case Sample() if event.image:
                writer.add_image(f"samples/{event.index}: {event.prompt}", _pixels(self._run / event.image), event.step)
        writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
