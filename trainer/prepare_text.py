"""From a config and texts to a job: turned into tokens once, which is all that the run will read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import draws
from .canaries import TEXTS, question
from .config import TrainConfig
from .errors import DatasetError
from .job import Base, ClassPrompt, Job, Prompt, TextItem
from .text import Chat, Sample, TextDataset

QUESTIONS, WORDS = 3, 6
"""Questions of the data set that are answered while it trains; of a plain line as many of its first words go on."""


def plan(
    config: TrainConfig,
    dataset: TextDataset,
    base: Base,
    chat: Chat,
    origin: str = "command line",
    *,
    init: str = "",
    texts: Sequence[TextItem] = (),
) -> Job:
    """The job of a config and texts.

    Args:
        config: with absolute paths (``resolved``).
        dataset: as scanned.
        base: the base model.
        chat: turns texts into tokens.
        origin: ``command line`` or ``host``.
        init: hash of ``init_lora``.
        texts: of an earlier plan of the same: what it turned into tokens is not turned again.

    Raises:
        DatasetError: a text has nothing to learn in it, or too few are there to hold some out.
    """
    items = list(texts) or [_item(sample, chat) for sample in dataset.samples]
    held_out = _held_out(items, config)
    items = [replace(item, held_out=item.id in held_out) for item in items]
    generic = TEXTS if config.validation_steps else ()
    return Job(
        config,
        base,
        (),
        tuple(_prompts(config, dataset.samples, held_out, chat)),
        "",
        (config.cache_dir or config.output_dir),
        origin,
        init=init,
        text_encoder=chat.fingerprint,
        class_prompts=tuple(ClassPrompt("", text, tokens=_line(text, chat)) for text in generic),
        texts=tuple(items),
    )


def _item(sample: Sample, chat: Chat) -> TextItem:
    encoded = chat.encode(sample)
    return TextItem(sample.id, sample.source, encoded.ids, encoded.answers, sample.repeats)


def _held_out(items: Sequence[TextItem], config: TrainConfig) -> set[str]:
    """Ids to hold out, drawn by content; what says the same is held out together."""
    count = config.validation_images
    if not count:
        return set()
    groups: dict[tuple[int, ...], list[str]] = {}
    for item in items:
        groups.setdefault(item.tokens, []).append(item.id)
    if count >= len(groups):
        raise DatasetError(
            f"validation_images: {count} cannot be held out of {len(groups)} different texts",
            "hold out fewer, or add texts",
        )
    order = sorted(groups.values(), key=lambda group: min(draws.uniform(config.seed, "hold out", id) for id in group))
    return {id for group in order[:count] for id in group}


def _prompts(config: TrainConfig, samples: Sequence[Sample], held_out: set[str], chat: Chat) -> list[Prompt]:
    """The configured prompts; else a few of the data set, held-out ones first, and one that is far from it."""
    if config.sample_prompts:
        return [
            Prompt(one.prompt, strength=one.strength, tokens=chat.question(one.prompt)) for one in config.sample_prompts
        ]
    if not config.sample_every:
        return []
    found: dict[str, Prompt] = {}
    for sample in sorted(samples, key=lambda sample: sample.id not in held_out):
        if len(found) == QUESTIONS:
            break
        if sample.text:
            beginning = " ".join(sample.text.split()[:WORDS])
            found[beginning] = Prompt(beginning, tokens=_line(beginning, chat)[:-1])
        elif asked := next((message.content for message in sample.messages if message.role == "user"), ""):
            found[asked] = Prompt(asked, tokens=chat.question(asked))
    far = question(found)
    return [*found.values(), Prompt(far, tokens=chat.question(far))]


def _line(text: str, chat: Chat) -> tuple[int, ...]:
    """The tokens of a plain line, with its end."""
    return chat.encode(Sample("", "", text)).ids
