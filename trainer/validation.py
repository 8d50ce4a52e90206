"""What the validations of a run say: which checkpoint is best, and when training on is of no use.

The training loss says nothing about that; the same objective on fixed samples, timesteps and noise does (Voronov et
al., "Is This Loss Informative?", arXiv 2302.04841). Up to three signals are measured: ``held_out``, ``train`` and
``drift`` (see ``events``). Every value is kept, in ``validation.jsonl``: two steps are compared pair by pair (the
same sample, timestep and noise), so that how hard each pair is falls out of the difference, and what is left tells its
own noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from . import checkpoint
from .config import TrainConfig
from .events import DRIFT, HELD_OUT, TRAIN
from .files import write_text

SHARE = 0.05
"""Of the run's time, at most, for validations."""
FILE = "validation.jsonl"
FEW = 3
"""Samples below which nothing is known of how one differs from another."""

Values = Mapping[str, float]
"""Pair (``<sample>@<draw>``) -> loss."""
Signals = Mapping[str, Values]


@dataclass
class Record:
    """The validations of a run.

    Args:
        steps: step -> signal -> values, in order.
        cost: what one takes, in optimizer steps; None until it was measured.
    """

    steps: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)
    cost: float | None = None

    def until(self, step: int) -> Record:
        """What a run that goes on from a step knows; one that begins anew knows nothing."""
        return Record({s: v for s, v in self.steps.items() if s <= step}, self.cost) if step else Record()


@dataclass(frozen=True)
class Difference:
    """How much higher one loss is than another: the mean over their pairs, and its standard error."""

    mean: float
    error: float

    def beyond(self, errors: float) -> bool:
        """Whether it is higher by more than so many standard errors."""
        return self.mean > errors * self.error


@dataclass(frozen=True)
class Best:
    """The checkpoint to keep, and why it is this one."""

    step: int
    reason: str


def read(run: Path) -> Record:
    """What was written of a run; empty where there is nothing."""
    found = Record()
    try:
        lines = (run / FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:  # half a line, of a process that was killed
            continue
        step, found.cost = data.pop("step"), data.pop("cost", found.cost)
        found.steps[step] = {
            signal: {pair: math.nan if value is None else value for pair, value in values.items()}
            for signal, values in data.items()
        }
    return found


def write(run: Path, record: Record) -> None:
    """Puts a record in place of what is there."""
    cost = {} if record.cost is None else {"cost": record.cost}
    write_text(run / FILE, "".join(_line(step, signals, cost) for step, signals in record.steps.items()))


def _line(step: int, signals: Signals, cost: Mapping[str, float]) -> str:
    finite = {
        signal: {pair: value if math.isfinite(value) else None for pair, value in values.items()}
        for signal, values in signals.items()
    }
    return json.dumps({"step": step, **cost, **finite}) + "\n"


def interval(config: TrainConfig, total: int, saving: int, cost: float) -> int:
    """Optimizer steps between two validations: as the config says, if ``SHARE`` allows it, and never past checkpoints.

    Only a checkpoint can be the best one, so between two of them there is a whole number of intervals, or the
    other way round.

    Args:
        config: validation_steps.
        total: the run's length.
        saving: steps between two checkpoints.
        cost: of a validation, in optimizer steps.
    """
    allowed = math.floor(SHARE * total / cost) if cost else total + 1
    fewest = math.ceil(total / (allowed - 1)) if allowed > 1 else total  # the first and the last are always made
    wanted = max(config.validation_steps, fewest)
    if wanted < saving:
        return math.ceil(saving / (saving // wanted))
    return saving * max(config.validation_steps // saving, math.ceil(fewest / saving))


def due(step: int, every: int, saving: int) -> bool:
    """Whether a step that is neither the first nor the last is validated, at an ``interval``."""
    return (step % saving if every < saving else step) % every == 0


def difference(these: Values, those: Values) -> Difference:
    """How much higher the loss of these pairs is than that of the same pairs there.

    The error is that of independent pairs; where that is larger and there are ``FEW`` samples or more, that of
    independent samples: what one image says at eight timesteps is not said eight times.
    """
    apart = {pair: these[pair] - those[pair] for pair in these if pair in those}
    if not apart:
        return Difference(0.0, math.inf)
    if not all(map(math.isfinite, apart.values())):
        return Difference(math.inf if math.isfinite(_mean(those)) else -math.inf, 0.0)
    by_sample: dict[str, list[float]] = {}
    for pair, value in apart.items():
        by_sample.setdefault(_sample(pair), []).append(value)
    error = _error(list(apart.values()))
    if len(by_sample) >= FEW:
        error = max(error, _error([fmean(values) for values in by_sample.values()]))
    return Difference(fmean(apart.values()), error)


def in_proportion(these: Values, those: Values) -> Difference:
    """``difference`` of the logarithms: by what part each pair's loss is higher, the hard ones like the easy ones.

    One hard picture that became much worse makes the plain difference large, and its error as large. Where a loss is
    not above zero nothing is known.
    """
    if not all(value > 0 for values in (these, those) for value in values.values()):
        return Difference(0.0, math.inf)
    return difference(_logarithms(these), _logarithms(those))


def _logarithms(values: Values) -> Values:
    return {pair: math.log(value) for pair, value in values.items()}


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _sample(pair: str) -> str:
    return pair.rpartition("@")[0]


def best(steps: Mapping[int, Signals], kept: Collection[int]) -> Best | None:
    """The checkpoint to keep: the last one, unless an earlier one is better by more than noise: then the lowest.

    Two standard errors are more than noise, plainly or in proportion. The latest within one of the lowest, in place of
    the lowest, was up to 10 % worse on pictures that the run never saw (docs/measurements.md).

    Args:
        steps: the validations.
        kept: steps that have a checkpoint.

    Returns:
        None where there is no checkpoint.
    """
    if not kept:
        return None
    signal = deciding(steps)
    there = {step: signals[signal] for step, signals in steps.items() if step in kept and signal in signals}
    if len(there) < 2:
        return Best(max(kept), "the last one; there are no validations to compare")
    last, lowest = max(there), min(there, key=lambda step: _mean(there[step]))
    worse, relative = (by(there[last], there[lowest]) for by in (difference, in_proportion))
    if not worse.beyond(2) and not relative.beyond(2):
        return Best(max(kept), f"the last one: at no other is the {_NAMES[signal]} lower by more than noise")
    how = "" if worse.beyond(2) else f" in proportion, {math.expm1(relative.mean):.0%}"
    return Best(
        lowest,
        f"{_NAMES[signal]} {_mean(there[lowest]):.4f}, at step {last} {_mean(there[last]):.4f}: higher by "
        f"{worse.mean:.4f}, which is more than two standard errors{how}",
    )


def of(run: Path, last: int | None = None) -> Best | None:
    """``best`` of a run folder.

    Args:
        run: the folder.
        last: what comes after this step does not count.
    """
    kept = [step for step in checkpoint.complete(run) if last is None or step <= last]
    return best(read(run).steps, kept)


def exhausted(steps: Mapping[int, Signals], patience: int, since: int = 0) -> str:
    """Why training on is of no use, in words; empty where it may be of use.

    It is of none when of the last ``patience`` validations none is better than the best one before them by more than a
    standard error, and the newest is not the lowest of all: what still falls, however slowly, is not stopped.

    Args:
        steps: the validations.
        patience: 0: never.
        since: the step at which the run was given another length; validations up to it do not count as the last ones.
    """
    signal = deciding(steps)
    means = {step: _mean(signals[signal]) for step, signals in steps.items() if signal in signals}
    order = sorted(means)
    latest, before = order[-patience:], order[:-patience]
    if not patience or not before or latest[0] <= since or means[order[-1]] <= min(means.values()):
        return ""
    lowest = min(before, key=lambda step: means[step])
    if any(difference(steps[lowest][signal], steps[step][signal]).beyond(1) for step in latest):
        return ""
    return f"{patience} validations in a row were no better than step {lowest} ({_NAMES[signal]} {means[lowest]:.4f})"


def deciding(steps: Mapping[int, Signals]) -> str:
    """The signal that decides: images that are held out, or else those that are trained on."""
    return HELD_OUT if any(HELD_OUT in signals for signals in steps.values()) else TRAIN


_NAMES = {HELD_OUT: "held-out loss", TRAIN: "loss on training images", DRIFT: "drift"}


def _mean(values: Values) -> float:
    mean = fmean(values.values()) if values else math.inf
    return mean if math.isfinite(mean) else math.inf
