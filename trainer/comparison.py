"""Runs that differ in one setting, side by side: what each gave, and which value of the setting to keep."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from . import checkpoint, events, runfolder, sheet, validation, yaml_text
from .events import DRIFT, HELD_OUT, TRAIN, Sample, Step
from .validation import Difference, Signals

SAME = 0.01
"""Relative difference of the base model's own losses up to which two runs have measured the same thing."""
MUCH_LONGER = 1.25
BARELY = 2.0  # standard errors


@dataclass(frozen=True)
class Trial:
    """What one run gave: of its best checkpoint, where there are several.

    Args:
        value: of the setting.
        folder: of the run.
        file: the LoRA.
        step: the steps that it was trained for.
        steps: that the run did.
        seconds: of their training.
        base: what the validation before the first step measured: the base model.
        measured: what the LoRA's did.
        failure: why there is none of all this; empty if there is.
    """

    value: str
    folder: Path
    file: Path = Path()
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    base: Signals = field(default_factory=dict)
    measured: Signals = field(default_factory=dict)
    failure: str = ""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.stat().st_size if not self.failure else 0

    def loss(self, signal: str) -> float:
        """The mean of a signal; NaN if it was not measured."""
        return fmean(self.measured[signal].values()) if self.measured.get(signal) else math.nan


@dataclass(frozen=True)
class Verdict:
    """Which trial to keep.

    Args:
        keep: its place; None where none is better for a reason.
        text: why, in words.
        apart: how much higher the held-out loss of each trial is than the lowest; None where that is not known.
    """

    keep: int | None
    text: str
    apart: tuple[Difference | None, ...]


def words(value: Any) -> str:
    """A value of a setting as it is written in YAML."""
    if isinstance(value, (list, dict)):
        return yaml_text.line(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def trial(value: str, folder: Path, result: Mapping[str, Any] | None = None) -> Trial:
    """What a finished run gave.

    Args:
        value: of the setting that differs.
        folder: the run's.
        result: its ``result.json``, if not the folder's own.
    """
    told = runfolder.read_result(folder) if result is None else result
    steps = int(told["step"])
    step = int(told.get("best", {}).get("step", steps))
    saved = checkpoint.lora(folder, step)
    record = validation.read(folder).steps
    seconds, before = 0.0, 0
    for event in events.history(folder / "events.jsonl"):
        if isinstance(event, Step) and event.step <= steps:
            seconds, before = seconds + event.seconds * (event.step - before), event.step
    return Trial(
        value,
        folder,
        saved if saved.is_file() else folder / str(told["path"]),
        step,
        steps,
        seconds,
        record.get(0, {}),
        record.get(step, {}),
    )


def judge(setting: str, trials: Sequence[Trial]) -> Verdict:
    """Which value to keep: the cheapest of those whose held-out loss is not above the lowest by more than noise.

    Cheap is a small file, then a short training. Losses are compared pair by pair, and only where the runs have
    measured the same thing: where the base model itself scored the same on it.

    Args:
        setting: the field that differs.
        trials: a run each.
    """
    nothing = (None,) * len(trials)
    done = [place for place, one in enumerate(trials) if one.measured]
    if len(done) < 2:
        return Verdict(None, f"{len(done)} of the runs can be compared", nothing)
    if not all(HELD_OUT in trials[place].measured for place in done):
        advice = "hold some out (validation_images), or look at the drift and at the pictures"
        text = "nothing is held out, and training images are always learnt better by what learns more"
        return Verdict(None, f"{text}: {advice}", nothing)
    if not _same(trials[place].base for place in done):
        text = f"with another {setting} the base model itself scores otherwise, so the losses cannot be compared"
        return Verdict(None, f"{text}: look at the pictures", nothing)
    losses = {place: trials[place].measured[HELD_OUT] for place in done}
    lowest = min(done, key=lambda place: trials[place].loss(HELD_OUT))
    apart = {place: validation.difference(losses[place], losses[lowest]) for place in done}
    equal = [place for place in done if not apart[place].beyond(BARELY)]
    quickest = min(max(trials[place].seconds, 1e-9) for place in equal)

    def cost(place: int) -> tuple[float, float, float]:
        longer = max(trials[place].seconds, 1e-9) / quickest
        return trials[place].size, longer if longer > MUCH_LONGER else 1.0, trials[place].loss(HELD_OUT)

    keep = min(equal, key=cost)
    text = f"keep {setting} {trials[keep].value}: its held-out loss is {trials[keep].loss(HELD_OUT):.4f}"
    if keep != lowest:
        less = apart[keep]
        text += f"; {trials[lowest].value} is lower by {less.mean:.4f}, which is no more than noise ({less.error:.4f})"
    elif others := [trials[place].value for place in equal if place != keep]:
        text += f", the lowest; {', '.join(others)} cannot be told from it, and is no cheaper"
    else:
        text += ", lower than that of all others by more than noise"
    return Verdict(keep, text, tuple(apart.get(place) for place in range(len(trials))))


def _same(bases: Any) -> bool:
    first, *others = [base.get(HELD_OUT, {}) for base in bases]
    return bool(first) and all(
        other.keys() == first.keys()
        and abs(fmean(other.values()) - fmean(first.values())) <= SAME * abs(fmean(first.values()))
        for other in others
    )


HEAD = ("", "held-out", "above the lowest", "train", "drift", "step", "file", "training", "")


def rows(setting: str, trials: Sequence[Trial], verdict: Verdict) -> list[list[str]]:
    """The runs side by side, below a head: a row a value, a cell a column. One that failed has its reason alone."""
    found = [[setting, *HEAD[1:]]]
    for place, one in enumerate(trials):
        if one.failure:
            found.append([one.value, f"failed: {one.failure}"])
            continue
        apart = verdict.apart[place]
        found.append(
            [
                one.value,
                _number(one.loss(HELD_OUT)),
                "" if apart is None else f"{apart.mean:.4f} +- {apart.error:.4f}" if apart.mean else "lowest",
                _number(one.loss(TRAIN)),
                _number(one.loss(DRIFT)),
                f"{one.step}" + (f" of {one.steps}" if one.step < one.steps else ""),
                f"{one.size / 1e6:.1f} MB",
                f"{one.seconds:.0f} s",
                "<- keep" if place == verdict.keep else "",
            ]
        )
    return found


def table(setting: str, trials: Sequence[Trial], verdict: Verdict) -> str:
    """The rows in lines for people, and what follows."""
    cells = rows(setting, trials, verdict)
    widths = [max(map(len, column)) for column in zip(*(row for row in cells if len(row) == len(HEAD)), strict=True)]
    widths[0] = max(len(row[0]) for row in cells)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in cells]
    return "\n".join([*lines, "", verdict.text])


def as_csv(setting: str, trials: Sequence[Trial], verdict: Verdict) -> str:
    """The same for programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("held_out", "above_lowest", "standard_error", "train", "drift", "step", "steps", "bytes", "seconds")
    writer.writerow((setting, *names, "keep", "run", "failure"))
    for place, one in enumerate(trials):
        apart = verdict.apart[place]
        losses = [one.loss(HELD_OUT), *((apart.mean, apart.error) if apart else (math.nan,) * 2)]
        losses += [one.loss(TRAIN), one.loss(DRIFT)]
        told = [f"{loss:.6g}" if math.isfinite(loss) else "" for loss in losses]
        rest = (one.step, one.steps, one.size, round(one.seconds, 1)) if not one.failure else ("",) * 4
        writer.writerow((one.value, *told, *rest, place == verdict.keep, one.folder.name, one.failure))
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def samples(one: Trial) -> dict[str, Sample]:
    """The last samples of a run up to the step of its LoRA, by their prompts."""
    drawn = [event for event in events.history(one.folder / "events.jsonl") if isinstance(event, Sample)]
    return {event.prompt: event for event in events.shown(drawn, one.step)}


def grid(setting: str, trials: Sequence[Trial], pictures: Sequence[Mapping[str, Image.Image]]) -> Image.Image | None:
    """The samples side by side: a row a prompt, a column a value; None where none were drawn.

    Args:
        setting: the field that differs.
        trials: a run each.
        pictures: of each run, by their prompts.
    """
    columns = [place for place, drawn in enumerate(pictures) if drawn]
    if not columns:
        return None
    prompts = list(dict.fromkeys(prompt for place in columns for prompt in pictures[place]))
    size = max(image.width for place in columns for image in pictures[place].values())
    empty = Image.new("RGB", (size, size), "white")
    rows = [[pictures[place].get(prompt, empty) for place in columns] for prompt in prompts]
    labels = [f"{setting} {trials[columns[0]].value}", *(trials[place].value for place in columns[1:])]
    return sheet.labelled_grid(rows, prompts, labels, side=min(512, max(128, size)))
