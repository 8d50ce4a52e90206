"""From a config and texts to a job, on the command line and in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from . import advisor, languages, prepare_text, text
from .config import TrainConfig
from .files import ContentHashes
from .job import Base, Job, TextItem


def job(
    config: TrainConfig,
    dataset: text.TextDataset,
    hashes: ContentHashes,
    room: Callable[[], advisor.Room],
    init: str,
    origin: str = "command line",
    texts: Sequence[TextItem] = (),
) -> Job:
    """The job of texts; what is ``auto`` is chosen.

    Args:
        config: with absolute paths; its base model, tokenizer and chat template are used.
        dataset: as scanned.
        hashes: of files.
        room: where it will train; asked only where something is ``auto``.
        init: hash of ``init_lora``.
        origin: ``command line`` or ``host``.
        texts: of an earlier job of the same texts, model, template and length: they are not turned into tokens again.

    Raises:
        UserError: base model, tokenizer, template or texts cannot be used.
    """
    kind = languages.detect(config.base_model)
    base = Base(config.base_model, kind.name, languages.content(config.base_model, hashes))
    tokenizer = languages.tokenizer(config.base_model, config.tokenizer)
    chat = text.Chat(tokenizer, config.chat_template, config.max_length)
    planned = prepare_text.plan(config, dataset, base, chat, origin, init=init, texts=texts)
    if not config.auto:
        return planned
    config, chosen = advisor.decide_texts(planned, room())
    planned = prepare_text.plan(config, dataset, base, chat, origin, init=init, texts=planned.texts)
    return replace(planned, choices=tuple(choice.told for choice in chosen))
