"""What was wrong with a run, in words, and the one thing to change next.

The troubles and the order of their cures are the guide's. What a run says is weighed against its settings: a cure that
it has had already is passed over for the next one. Only losses on fixed pictures, timesteps and noise tell small
changes from noise, so without validation little is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean, stdev

from ..config import TrainConfig
from ..events import Checkpoint, Event, RunFailed, RunFinished, RunStarted, Step, Validation
from ..job import Job
from ..peek import Peek
from . import rules
from .cautions import FAR, TOO_FEW, Length, captions
from .facts import Facts
from .words import shown

FAINT = 0.03
"""A loss on fixed pictures that fell by less than this part has hardly learnt."""
SLIGHT = 0.2
"""One that fell by less than this part had more to learn, if its pictures were shown seldom."""
AWAY = 1.3
"""A training loss that is so many times higher at the end than at the beginning runs away."""
RISEN = 1.1
"""So does one on fixed pictures that were trained; how it changes is not noise."""
STIFF_BELOW = 0.5
"""Where the best step had less than this part of the usual showings, it was the rate that was too fast."""
TINY = 0.01
"""A change that is scaled by less than this leaves nothing."""
FIRST_CURES = 16, 6
"""The ranks that the guide changes to: for more effect, for less."""

FOREIGN = 0.75
"""A first loss that is so near to that of a guess among all words: the text is noise to the model."""

TROUBLES = {
    "memory": "out of memory",
    "format": "the texts are not what the base model reads",
    "rote": "answers by heart are to be expected: it overfits",
    "stiff": "stiff or distorted pictures are to be expected: it overfits",
    "faint": "hardly any effect is to be expected",
    "still": "the loss does not move",
    "away": "the loss runs away",
    "": "nothing to change",
}
"""What can be the matter."""


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter with a run.

    Args:
        trouble: a key of ``TROUBLES``.
        because: what shows it.
        field: the one to change; empty where none is.
        change: to what, as people write it, or what else to do.
    """

    trouble: str
    because: str
    field: str = ""
    change: str = ""

    @property
    def message(self) -> str:
        """The trouble and what shows it."""
        return f"{TROUBLES[self.trouble]}: {self.because}"

    @property
    def cure(self) -> str:
        """The one thing to change."""
        return f"change one thing: {self.change}" if self.change else ""


@dataclass(frozen=True)
class Case:
    """A run as it is looked at.

    Args:
        job: what was trained.
        facts: of its pictures.
        base: the base model.
        length: of the run.
        story: its events; the last one is its end, if it has ended.
        cards: whether there is a graphics card on this machine.
    """

    job: Job
    facts: Facts
    base: Peek
    length: Length
    story: Sequence[Event]
    cards: bool = False

    @property
    def config(self) -> TrainConfig:
        """Its settings."""
        return self.job.config

    @property
    def right(self) -> float:
        """How often its pictures are shown usually."""
        return rules.presentations(max(1, self.facts.different - self.config.validation_images), self.config.text)

    def validations(self, signal: str) -> list[Validation]:
        """Its values of a signal, by step."""
        return [event for event in self.story if isinstance(event, Validation) and event.signal == signal]

    def losses(self) -> list[float]:
        """The training loss, as it was told."""
        return [event.loss for event in self.story if isinstance(event, Step)]


def diagnose(case: Case) -> Diagnosis | None:
    """What is the matter with a run that ended; None where nothing can be said.

    Args:
        case: the run.
    """
    end = case.story[-1] if case.story else None
    if isinstance(end, RunFailed):
        return next(_failure(case, end), None)
    looked_at = (_away, _foreign, _stiff, _still, _faint, _short)
    return next((found for look in looked_at for found in look(case)), None) or _healthy(case, end)


def _failure(case: Case, end: RunFailed) -> Iterator[Diagnosis]:
    if "out of memory" in end.message:
        field, change = _less_memory(case, end.message)
        yield Diagnosis("memory", end.message.partition("\n")[0][:200], field, change)
    elif "not finite" in end.message:
        yield Diagnosis("away", end.message, *_lower_rate(case))
    elif "changes nothing" in end.message:
        yield from _frozen(case)


def _less_memory(case: Case, message: str) -> tuple[str, str]:
    """The guide's order: batch 2, fp16, checkpointing; then one picture at a time; then what costs quality.

    A run that was out of memory while it trained has given up all but the last by itself.
    """
    config, started = case.config, _started(case)
    smaller = "resolution", f"resolution: {max(64, config.resolution * 3 // 4 // 64 * 64)}"
    if config.text:
        smaller = "max_length", f"max_length: {max(64, config.max_length // 2)}"
    if "everything given up" in message:
        return smaller
    fp32 = started is not None and started.precision == "fp32" and started.device != "cpu"
    for size in (2, 1):
        if config.batch_size > size and config.window % size == 0:
            parts = config.window // size
            return "batch_size", f"batch_size: {size} with gradient_accumulation_steps: {parts}, the same run"
        if size == 2 and fp32 and config.mixed_precision == "no":
            return "mixed_precision", "mixed_precision: fp16"
        if size == 2 and not config.gradient_checkpointing:
            return "gradient_checkpointing", "gradient_checkpointing: true, the same run"
    return smaller


def _away(case: Case) -> Iterator[Diagnosis]:
    fixed = case.validations("train")
    if len(fixed) > 1 and fixed[-1].loss > RISEN * fixed[0].loss:
        rose = f"on fixed {case.facts.what}s it rose from {fixed[0].loss:.4f} to {fixed[-1].loss:.4f}"
        yield Diagnosis("away", rose, *_lower_rate(case))
        return
    first, last = _ends(case.losses())
    if first and fmean(last) > AWAY * fmean(first) and fmean(last) - fmean(first) > 3 * _error(first, last):
        yield Diagnosis("away", f"it rose from {fmean(first):.4f} to {fmean(last):.4f}", *_lower_rate(case))


def _lower_rate(case: Case) -> tuple[str, str]:
    config = case.config
    usual = rules.rate(config, case.base)
    if rules.off(config, case.base) > 0 and usual < config.learning_rate:
        return "learning_rate", f"learning_rate: {shown(usual)}"
    started = _started(case)
    if started is not None and started.precision == "fp16":
        return "mixed_precision", "mixed_precision: bf16, or no"
    return "learning_rate", f"learning_rate: {shown(config.learning_rate / 2)}"


def _stiff(case: Case) -> Iterator[Diagnosis]:
    """Fewer epochs, then a lower rate, then rank 4 to 6.

    That an earlier checkpoint is better by more than noise is for ``validation.best`` to say, on pictures held out.
    """
    config, values = case.config, {one.step: one.loss for one in case.validations("held_out")}
    end = case.story[-1] if case.story else None
    if not isinstance(end, RunFinished) or not end.best < end.step or end.best not in values:
        return
    last = values[max(values)]
    because = f"the held-out loss was {values[end.best]:.4f} at step {end.best}, and {last:.4f} at the end"
    trouble = "rote" if config.text else "stiff"
    part = end.best / end.step
    low, _ = rules.range_of(config, case.base)
    if part * case.length.shown >= STIFF_BELOW * case.right:
        field, now = _length_field(case)
        yield Diagnosis(trouble, because, field, f"{field}: {max(1, round(part * now))}")
    elif config.optimizer != "prodigy" and config.learning_rate > low:
        lower = max(low, config.learning_rate / 2)
        yield Diagnosis(trouble, because, "learning_rate", f"learning_rate: {shown(lower)}")
    elif config.lora_rank > FIRST_CURES[1]:
        yield Diagnosis(trouble, because, "lora_rank", f"lora_rank: {FIRST_CURES[1]}, later 4")
    else:
        yield Diagnosis(trouble, because, "train_data_dir", f"more {case.facts.what}s, or more varied ones")


def _foreign(case: Case) -> Iterator[Diagnosis]:
    """A wrong data format: the base model had no more idea of the texts than of any other row of words."""
    first = next((event for event in case.story if isinstance(event, Validation) and event.step == 0), None)
    if not case.config.text or first is None or case.base.vocabulary < 2:
        return
    guess = log(case.base.vocabulary)
    if first.loss > FOREIGN * guess:
        told = f"before the training the loss was {first.loss:.1f} a token, and a mere guess among all has {guess:.1f}"
        change = "plain lines, or prompt and completion; with the base model's own tokenizer and chat_template"
        yield Diagnosis("format", told, "train_data_dir", change)


def _still(case: Case) -> Iterator[Diagnosis]:
    """A rate of the wrong size, an adapter that cannot move, the wrong device."""
    because = _unmoved(case)
    if not because:
        return
    off = rules.off(case.config, case.base)
    if abs(off) >= FAR:
        size = f"{10 ** abs(off):,.0f} times {'above' if off > 0 else 'below'} the usual"
        told = f"{because}, at a learning_rate of {shown(case.config.learning_rate)}, {size}"
        yield Diagnosis("still", told, "learning_rate", f"learning_rate: {shown(rules.rate(case.config, case.base))}")
        return
    yield from _frozen(case)
    started = _started(case)
    if started is not None and started.device == "cpu" and case.cards:
        yield Diagnosis("still", f"{because}, and it ran on the CPU though there is a card", "device", "device: auto")


def _frozen(case: Case) -> Iterator[Diagnosis]:
    """Settings by which what is trained has no say."""
    config, scale = case.config, rules.scale(case.config)
    if scale < TINY:
        told = f"what is learnt is scaled by alpha / rank, {scale:.1g}"
        yield Diagnosis("still", told, "lora_alpha", f"lora_alpha: {config.lora_rank}")
    elif 0 < config.max_grad_norm < TINY:
        told = f"gradients are cut to a norm of {shown(config.max_grad_norm)}"
        yield Diagnosis("still", told, "max_grad_norm", "max_grad_norm: 1.0")
    elif config.lora_dropout > 1 - TINY:
        told = f"{config.lora_dropout:.1%} of the LoRA's inputs are dropped"
        yield Diagnosis("still", told, "lora_dropout", "lora_dropout: 0")
    elif any(isinstance(event, Checkpoint) and event.change == 0 for event in case.story):
        told = "the change of every weight is zero: nothing that is trained reaches the loss"
        yield Diagnosis("still", told, "lora_blocks", "lora_blocks: empty, for all blocks")


def _faint(case: Case) -> Iterator[Diagnosis]:
    """Rank 16, then more epochs, then the captions."""
    because = _unmoved(case)
    if not because:
        return
    config, rank = case.config, FIRST_CURES[0]
    field, now = _length_field(case)
    if config.lora_rank < rank:
        yield Diagnosis("faint", because, "lora_rank", f"lora_rank: {rank}")
    elif case.length.shown < 2 * case.right:
        more = max(case.right / max(1.0, case.length.shown), 1.5)
        yield Diagnosis("faint", because, field, f"{field}: {round(more * now)}")
    elif config.text:
        yield Diagnosis("faint", because, "train_data_dir", "samples that have more of what is to be learnt in common")
    else:
        (advice,) = [*captions(config, case.facts), None][:1]
        told = "look at the captions: one precise text a picture"
        yield Diagnosis("faint", because, "caption_source", advice.cure if advice else told)


def _short(case: Case) -> Iterator[Diagnosis]:
    """More epochs, where a run that learnt little ended long before its pictures were shown as often as usual."""
    values = case.validations("held_out") or case.validations("train")
    if len(values) < 2 or case.length.shown > TOO_FEW * case.right:
        return
    first, last = values[0].loss, values[-1].loss
    if last > (1 - SLIGHT) * first:
        field, now = _length_field(case)
        fell = f"the loss on fixed {case.facts.what}s fell from {first:.4f} to {last:.4f}"
        told = f"{fell}, and they were shown {case.length.shown:,.0f} times; {case.right:,.0f} are usual"
        more = round(now * case.right / max(1.0, case.length.shown))
        yield Diagnosis("faint", told, field, f"{field}: {more}")


def _healthy(case: Case, end: Event | None) -> Diagnosis | None:
    values = case.validations("held_out") or case.validations("train")
    if not isinstance(end, RunFinished) or len(values) < 2:
        return None
    first, last = values[0].loss, values[-1].loss
    if last >= first:  # by no more than noise, else something was said of it; but that is no praise
        return None
    lowest = min(values, key=lambda one: one.loss)
    name = "held-out loss" if lowest.signal == "held_out" else f"loss on fixed {case.facts.what}s"
    where = "lowest at the end" if lowest is values[-1] else f"about as low at the end as at step {lowest.step}"
    return Diagnosis("", f"the {name} fell from {first:.4f} to {last:.4f}, {where}")


def _unmoved(case: Case) -> str:
    """What shows that nothing was learnt; empty where something was, or where nobody can tell."""
    values = case.validations("train") or case.validations("held_out")
    if len(values) > 1:
        first, last = values[0].loss, values[-1].loss
        moved = 1 - last / first if first else 0.0
        return (
            "" if moved >= FAINT else f"the loss on fixed {case.facts.what}s went from {first:.4f} to {last:.4f} only"
        )
    before, after = _ends(case.losses())
    if not before:
        return ""
    fell = fmean(before) - fmean(after)
    return (
        ""
        if fell > 2 * _error(before, after)
        else f"the training loss went from {fmean(before):.4f} to {fmean(after):.4f}"
    )


def _error(these: Sequence[float], those: Sequence[float]) -> float:
    """The standard error of the difference of two means."""
    return (stdev(these) ** 2 / len(these) + stdev(those) ** 2 / len(those)) ** 0.5


def _ends(losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """The first and the last quarter; empty where there are too few to tell anything."""
    quarter = len(losses) // 4
    return (list(losses[:quarter]), list(losses[-quarter:])) if quarter >= 3 else ([], [])


def _length_field(case: Case) -> tuple[str, int]:
    """The field that ends the run, and its value."""
    config = case.config
    total = case.length.steps
    return ("max_steps", total) if config.max_steps == total else ("epochs", config.epochs)


def _started(case: Case) -> RunStarted | None:
    return next((event for event in reversed(case.story) if isinstance(event, RunStarted)), None)
