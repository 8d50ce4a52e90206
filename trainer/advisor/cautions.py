"""What the guide warns of, said before a training. Nothing here keeps one from beginning, or changes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .. import optim
from ..config import TrainConfig
from ..peek import Peek
from . import rules
from .facts import Facts
from .words import count, shown

FAR = 0.5
"""Orders of magnitude outside of the usual rates from which on it is said: nearer to a slip of the keyboard."""
TOO_MANY, TOO_FEW = 2.0, 0.4
"""Times the showings that are right for so many pictures."""
LITTLE = 0.02
"""A loss on a smaller part of the tokens has little to learn from."""
PRODIGY_STEPS = 150
"""Prodigy finds its rate within some fifty steps (docs/measurements.md)."""


@dataclass(frozen=True)
class Advice:
    """Something to mind.

    Args:
        field: that it is about.
        message: what is the matter.
        cure: what to set instead; may be empty.
        note: whether it is only said, because nothing is wrong with what was set.
    """

    field: str
    message: str
    cure: str = ""
    note: bool = False


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Args:
        steps: optimizer steps.
        shown: how often pictures are shown in all, without those for regularisation.
    """

    steps: int
    shown: float


def warn(config: TrainConfig, facts: Facts, base: Peek, length: Length, chosen: Collection[str] = ()) -> list[Advice]:
    """What to mind about settings, before a training.

    Args:
        config: without any ``auto``.
        facts: of its pictures.
        base: the base model.
        length: of the run.
        chosen: fields that were ``auto``: of these nothing is said.
    """
    every = (
        *_rate(config, base),
        *_rank(config, facts),
        *_batch(config, facts),
        *_length(config, facts, length),
        *(_texts(config, facts) if config.text else _pictures(config, facts, base)),
        *_warmup(config, length),
        *_of_no_effect(config, length),
    )
    return [advice for advice in every if advice.field not in chosen]


def _pictures(config: TrainConfig, facts: Facts, base: Peek) -> Iterator[Advice]:
    yield from captions(config, facts)
    yield from _resolution(config, facts, base)
    yield from _text_encoder(config)


def _texts(config: TrainConfig, facts: Facts) -> Iterator[Advice]:
    """Wrong formats, which are the guide's trouble of language models."""
    full = sum(tokens >= config.max_length for tokens in facts.tokens)
    if full:
        message = f"max_length: {count(full, 'sample')} of {facts.images:,} have {config.max_length:,} tokens or more"
        yield Advice("max_length", f"{message}: their front is cut away", f"max_length: {2 * config.max_length}")
    total = sum(facts.tokens)
    if total and facts.counted < LITTLE * total:
        message = f"train_data_dir: the loss is on {facts.counted / total:.1%} of the tokens, so little is learnt"
        yield Advice("train_data_dir", f"{message} from so much", "longer answers, or shorter questions")
    if facts.images > 2 and facts.captions == 1:
        message = "train_data_dir: all samples have the same answer, which is all that will be learnt"
        yield Advice("train_data_dir", message, "answers that belong to their questions")
    if facts.lines == facts.images:
        message = "train_data_dir: plain lines: the model learns to write such text, not to answer"
        yield Advice("train_data_dir", message, "to answer: prompt and completion in .jsonl", note=True)


def _rate(config: TrainConfig, base: Peek) -> Iterator[Advice]:
    (low, high), off = rules.range_of(config, base), rules.off(config, base)
    for_what = "" if config.optimizer == "adamw" else f" for {config.optimizer}"
    usual = f"{shown(low)} to {shown(high)}{for_what}" if low != high else f"{shown(low)}{for_what}"
    cure = f"learning_rate: {shown(rules.rate(config, base))}"
    if off <= -FAR:
        message = f"learning_rate: {shown(config.learning_rate)} is {_times(-off)} below the usual {usual}"
        yield Advice("learning_rate", f"{message}: after 20 epochs nothing would have changed", cure)
    elif off >= FAR:
        message = f"learning_rate: {shown(config.learning_rate)} is {_times(off)} above the usual {usual}"
        yield Advice("learning_rate", f"{message}: the loss would swing, or rise", cure)
    elif config.learning_rate * rules.scale(config) < low / 10:
        scale = f"the change is scaled by {rules.scale(config):.1g} (alpha / rank)"
        message = f"lora_alpha: {scale}: at this rate there would be hardly any"
        yield Advice("lora_alpha", message, f"lora_alpha: {config.lora_rank}")


def _rank(config: TrainConfig, facts: Facts) -> Iterator[Advice]:
    rank = max(config.lora_rank, *config.lora_ranks.values(), 0)
    # A LoKr's rank is that of a small factor: a high one is usual.
    if rank >= rules.LARGE_RANK and facts.different < rules.SMALL and config.lora_method != "lokr":
        message = f"lora_rank: {rank} learns {count(facts.different, f'different {facts.what}')} by heart"
        yield Advice("lora_rank", message, "lora_rank: 8, or 16 if the result is flat")


def _batch(config: TrainConfig, facts: Facts) -> Iterator[Advice]:
    if config.window == 1 and facts.different > 1:
        message = f"batch_size: 1 without accumulation: each step follows a single {facts.what}, which is noisy"
        yield Advice("batch_size", message, "gradient_accumulation_steps: 4, which needs no more memory")


def _length(config: TrainConfig, facts: Facts, length: Length) -> Iterator[Advice]:
    trained = max(1, facts.different - config.validation_images)
    right = rules.presentations(trained, config.text)
    told = f"{facts.what}s are shown {length.shown:,.0f} times in all; for {count(trained, 'different one')} "
    told += f"{right:,.0f} are"
    field = "epochs" if config.max_steps is None or length.steps < config.max_steps else "max_steps"
    now = config.epochs if field == "epochs" else length.steps
    cure = f"{field}: {max(1, round(now * right / max(1, length.shown)))}"
    if length.shown >= TOO_MANY * right:
        yield Advice(field, f"{field}: {told} enough: more make them stiff", cure)
    elif length.shown <= TOO_FEW * right:
        yield Advice(field, f"{field}: {told} usual: so few may leave no trace", cure)


def captions(config: TrainConfig, facts: Facts) -> Iterator[Advice]:
    """What to mind about captions."""
    if config.caption_source == "none" or facts.images < 2:
        return  # nobody wanted any
    write = "write what each picture shows: python -m trainer caption, or Auto Caption; for a style without words: "
    write += "caption_source: none"
    if not facts.captioned:
        yield Advice("caption_source", "captions: no picture has one, so the LoRA cannot tell what is the same", write)
    elif facts.captions == 1:
        yield Advice("caption_source", "captions: all pictures have the same, so nothing tells them apart", write)


def _resolution(config: TrainConfig, facts: Facts, base: Peek) -> Iterator[Advice]:
    smaller = facts.smaller(config.resolution)
    if 2 * smaller > facts.images:
        side = config.resolution
        message = f"resolution: {smaller:,} of {facts.images:,} pictures have fewer pixels than {side} x {side}"
        fitting = rules.resolution(facts.sides, base)
        yield Advice("resolution", f"{message}; none is enlarged", f"larger pictures, or resolution: {fitting}")


def _text_encoder(config: TrainConfig) -> Iterator[Advice]:
    if not config.train_text_encoder:
        return
    if config.optimizer != "prodigy" and config.text_rate > config.learning_rate:
        message = f"text_encoder_learning_rate: {shown(config.text_rate)} is above learning_rate: words would lose"
        cure = f"text_encoder_learning_rate: {shown(config.learning_rate / 2)}, or empty"
        yield Advice("text_encoder_learning_rate", f"{message} their meaning before anything is learnt", cure)
    if config.caption_source == "none" and not config.trigger_word.strip():
        message = "train_text_encoder: there is neither a caption nor a trigger word for it to learn"
        yield Advice("train_text_encoder", message, "train_text_encoder: false, or set trigger_word")


def _warmup(config: TrainConfig, length: Length) -> Iterator[Advice]:
    warm = optim.warmup(config, length.steps)
    if config.warmup_steps != "auto" and warm < config.warmup_steps:
        given = config.warmup_steps
        message = f"warmup_steps: {given} is more than a tenth of the {length.steps} steps; warming up over {warm}"
        # The guide's own value, which a file that says nothing has: cut, it is as it should be.
        usual = given == TrainConfig.model_fields["warmup_steps"].default
        yield Advice("warmup_steps", message, "" if usual else "warmup_steps: auto", note=usual)


def _of_no_effect(config: TrainConfig, length: Length) -> Iterator[Advice]:
    if config.max_steps is not None and length.steps < config.max_steps:
        ends = f"{config.epochs} epochs are {length.steps} steps; raise epochs"
        yield Advice("max_steps", f"max_steps: {config.max_steps} is not reached: {ends}", note=True)
    if config.validation_images and not config.validation_steps:
        what = "samples" if config.text else "images"
        message = f"validation_images: {config.validation_images} {what} are held out, but with validation_steps: 0"
        yield Advice("validation_images", f"{message} nothing is measured on them", "validation_steps: 100")
    if config.optimizer == "schedulefree" and config.lr_scheduler not in ("constant", "cosine"):
        message = f"lr_scheduler: schedulefree averages instead; {config.lr_scheduler} has no effect"
        yield Advice("lr_scheduler", message, note=True)
    if config.optimizer == "prodigy" and length.steps < PRODIGY_STEPS:
        message = f"optimizer: prodigy takes some fifty steps to find its rate, and the run has {length.steps}"
        yield Advice("optimizer", message, "optimizer: adamw")


def _times(orders: float) -> str:
    return f"{10**orders:,.0f} times"
